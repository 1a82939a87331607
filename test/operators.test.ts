// docs/OPERATORS.md says what the rule tables say.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { root } from "./support/folders.ts";

interface OperatorsScript {
  readonly pagePath: string;
  operatorsPage(): string;
}

const { pagePath, operatorsPage } = (await import(
  pathToFileURL(join(root, "scripts", "operators.js")).href
)) as OperatorsScript;

const cells = (operator: string): string[] => {
  const line = operatorsPage()
    .split("\n")
    .find((row) => row.startsWith(`| ${operator} `));
  return (line ?? "").split("|").map((cell) => cell.trim());
};

describe("the table of operators", () => {
  it("is up to date (npm run docs:operators)", () => {
    expect(readFileSync(pagePath, "utf8")).toBe(operatorsPage());
  });

  it("tells rules, lowerings, zero gradients and what is not supported apart, with operator sets", () => {
    expect(cells("Gemm").slice(1, 4)).toEqual(["Gemm", "7-23", "yes"]);
    expect(cells("LayerNormalization").slice(1, 4)).toEqual(["LayerNormalization", "17-23", "yes"]);
    expect(cells("ArgMax")[3]).toBe("zero");
    expect(cells("BitwiseAnd")[3]).toBe("zero");
    expect(cells("Loop")[3]).toBe("no");
    expect(cells("Softmax").slice(3, 5)).toEqual(["yes", "below 13"]);
    expect(cells("com.microsoft.SkipLayerNormalization").slice(1, 3)).toEqual([
      "com.microsoft.SkipLayerNormalization",
      "rewritten",
    ]);
  });
});
