// The lists of operators that documents are made of.
import { describe, expect, it } from "vitest";
import { hasShapeRow } from "../onnx/shapes.ts";
import { loweredOperators, loweringOf } from "./lower/table.ts";
import { differentiableOperators, gradientRule } from "./table.ts";

function split(name: string): [domain: string, op: string] {
  const at = name.lastIndexOf(".");
  return [name.slice(0, Math.max(at, 0)), name.slice(at + 1)];
}

describe("the lists of operators", () => {
  it("are sorted, and name what the tables have", () => {
    for (const list of [loweredOperators(), differentiableOperators()]) {
      expect(list).toEqual([...new Set(list)].sort());
      expect(list.length).toBeGreaterThan(10);
    }
    for (const name of loweredOperators()) expect(loweringOf(...split(name)), name).toBeDefined();
    for (const name of differentiableOperators()) expect(gradientRule(...split(name)), name).toBeDefined();
  });

  it("have nothing in common: an operator is lowered or has a rule", () => {
    const ruled = new Set(differentiableOperators());
    expect(loweredOperators().filter((name) => ruled.has(name))).toEqual([]);
  });

  it("have shapes, without which what stands behind them could not be differentiated", () => {
    const all = [...loweredOperators(), ...differentiableOperators()];
    expect(all.filter((name) => !hasShapeRow(...split(name)))).toEqual([]);
  });
});
