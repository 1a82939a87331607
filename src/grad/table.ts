// All gradient rules, by operator. Three statuses: a rule; zero (the derivative is zero wherever it exists, or the output
// is no float); no entry: not supported.
import type { Rule, RuleTable } from "./rule.ts";
import { activationRules, contribActivationRules } from "./rules/activations.ts";
import { convRules } from "./rules/conv.ts";
import { einsumRules } from "./rules/einsum.ts";
import { elementwiseRules } from "./rules/elementwise.ts";
import { indexRules } from "./rules/index.ts";
import { linearRules } from "./rules/linear.ts";
import { normRules } from "./rules/norm.ts";
import { poolRules } from "./rules/pool.ts";
import { contribQuantizedRules, quantizedRules } from "./rules/quantized.ts";
import { recurrentRules } from "./rules/recurrent.ts";
import { reduceRules } from "./rules/reduce.ts";
import { resizeRules } from "./rules/resize.ts";
import { shapeRules } from "./rules/shape.ts";

const zeroGradient =
  "Shape Size ConstantOfShape Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor ArgMax ArgMin Sign Floor Ceil Round IsNaN IsInf NonZero Hardmax EyeLike RandomNormalLike RandomUniformLike";

const table: RuleTable = {
  ...activationRules,
  ...convRules,
  ...einsumRules,
  ...elementwiseRules,
  ...indexRules,
  ...linearRules,
  ...normRules,
  ...poolRules,
  ...quantizedRules,
  ...resizeRules,
  ...recurrentRules,
  ...reduceRules,
  ...shapeRules,
  ...Object.fromEntries(zeroGradient.split(" ").map((op) => [op, "zero" as const])),
};

/** Rules for operators of other domains. */
const others: Readonly<Record<string, RuleTable>> = {
  "com.microsoft": { ...contribActivationRules, ...contribQuantizedRules },
};

/** The rule for an operator of a domain ("" is ONNX's own), "zero", or undefined when it is not supported. */
export function gradientRule(domain: string, op: string): Rule | "zero" | undefined {
  const rules = domain === "" ? table : Object.hasOwn(others, domain) ? others[domain]! : {};
  return Object.hasOwn(rules, op) ? rules[op] : undefined;
}

/** The operators that have a rule or a zero gradient, sorted, those of other domains with the domain: for documents. */
export function differentiableOperators(): string[] {
  const named = Object.entries(others).flatMap(([domain, rules]) => Object.keys(rules).map((op) => `${domain}.${op}`));
  return [...Object.keys(table), ...named].sort();
}
