// All gradient rules, by operator. Three statuses: a rule; zero (the derivative is zero wherever it exists, or the output
// is no float); no entry: not supported.
import type { Rule, RuleTable } from "./rule.ts";
import { elementwiseRules } from "./rules/elementwise.ts";
import { linearRules } from "./rules/linear.ts";
import { shapeRules } from "./rules/shape.ts";

const zeroGradient =
  "Shape Size ConstantOfShape Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor ArgMax ArgMin Sign Floor Ceil Round IsNaN IsInf NonZero OneHot";

const table: RuleTable = {
  ...elementwiseRules,
  ...linearRules,
  ...shapeRules,
  ...Object.fromEntries(zeroGradient.split(" ").map((op) => [op, "zero" as const])),
};

/** The rule for an operator of a domain ("" is ONNX's own), "zero", or undefined when it is not supported. */
export function gradientRule(domain: string, op: string): Rule | "zero" | undefined {
  return domain === "" && Object.hasOwn(table, op) ? table[op] : undefined;
}

/** The operators that have a rule or a zero gradient, sorted: for documents and messages. */
export function differentiableOperators(): string[] {
  return Object.keys(table).sort();
}
