import { describe, expect, it } from "vitest";
import { graphBuilder } from "../../onnx/builder.ts";
import { type Case, dims, op, testRules } from "../testing/rules.ts";
import { backward } from "../walk.ts";
import { einsumRules } from "./einsum.ts";

const einsum = (equation: string, ...shapes: (readonly number[])[]): Case => [
  equation,
  op("Einsum", { equation }),
  dims(...shapes),
];

const cases: Readonly<Record<string, readonly Case[]>> = {
  Einsum: [
    einsum("ij,jk->ik", [2, 3], [3, 2]),
    einsum("ij,jk", [2, 3], [3, 2]),
    einsum("bhid,bhjd->bhij", [2, 1, 2, 3], [2, 1, 3, 3]),
    einsum("bij, bj -> bi", [2, 2, 3], [2, 3]),
    einsum("i,j->ij", [2], [3]),
    einsum("i,i->", [3], [3]),
    einsum("ij->ji", [2, 3]),
    einsum("ij->i", [2, 3]),
    einsum("ijk->", [2, 1, 3]),
    einsum("ij,k->k", [2, 3], [2]),
    einsum("ij,jk,kl->il", [2, 2], [2, 3], [3, 2]),
    einsum("...ij,...jk->...ik", [2, 2, 3], [2, 3, 2]),
    einsum("...ij,jk->...ik", [2, 2, 2, 3], [3, 2]),
    einsum("...i,i->...", [2, 3], [3]),
    ["an operand with itself", (g, [x]) => g.op("Einsum", [x!, x!], { equation: "ij,kj->ik" }), dims([2, 3])],
  ],
};

testRules(einsumRules, cases);

describe("Einsum", () => {
  const gradient = (equation: string) => () => {
    const g = graphBuilder({ opset: 20 });
    const x = g.input("x", "float32", [2, 2]);
    backward(g, new Map([[g.op("Einsum", [x], { equation }, { name: "e" }), x]]), [x]);
  };

  it("is refused where it reads a diagonal", () => {
    expect(gradient("ii->i")).toThrow('node "e" (Einsum): operand 0 names an axis twice (ii), a diagonal');
  });

  it.each([
    ["ijk->i", "operand 0 has 2 axes, not 3"],
    ["ij,jk->ik", "expected 1 operands, got 2"],
    ["i1->i", "expected letters, commas, ... and ->"],
    ["i.j->i", "operand 0 has 2 axes, not 3"],
    ["...ijk->i", "operand 0 has 2 axes, fewer than 3"],
  ])("says what is wrong with %s", (equation, why) => {
    expect(gradient(equation)).toThrow(`node "e" (Einsum): equation ${JSON.stringify(equation)}: ${why}`);
  });
});
