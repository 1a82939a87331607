// All lowerings, by domain and operator.
import { activationLowerings } from "./activations.ts";
import { attentionLowerings } from "./attention.ts";
import type { Lowering, LoweringTable } from "./lowering.ts";
import { normalizationLowerings } from "./normalization.ts";
import { productLowerings } from "./products.ts";
import { standardLowerings } from "./standard.ts";

const tables: Readonly<Record<string, LoweringTable>> = {
  "": {
    ...standardLowerings,
    SimplifiedLayerNormalization: normalizationLowerings.SimplifiedLayerNormalization!,
  },
  "com.microsoft": {
    ...activationLowerings,
    ...attentionLowerings,
    ...normalizationLowerings,
    ...productLowerings,
  },
};

/** The lowering of an operator of a domain ("" is ONNX's own), or undefined where it has none. */
export function loweringOf(domain: string, op: string): Lowering | undefined {
  const table = Object.hasOwn(tables, domain) ? tables[domain]! : {};
  return Object.hasOwn(table, op) ? table[op] : undefined;
}

/** The operators that are lowered, sorted, with their domain in front: for documents. */
export function loweredOperators(): string[] {
  const named = Object.entries(tables).flatMap(([domain, table]) =>
    Object.keys(table).map((op) => (domain === "" ? op : `${domain}.${op}`)),
  );
  return named.sort();
}
