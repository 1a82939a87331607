import { describe, expect, it } from "vitest";
import { formatGradcheck, formatInspection, type Inspected } from "./inspect-table.ts";

const model: Inspected = {
  opset: 17,
  producer: "",
  parameters: 1234,
  inputs: [{ name: "x", type: "float32", shape: ["batch", null, 3] }],
  outputs: [{ name: "list", type: null, shape: null }],
  operators: [{ operator: "com.microsoft.Gelu", count: 12, gradient: "lowered" }],
  sites: [],
};

describe("formatInspection", () => {
  it("shows what is not known, and a model without layers", () => {
    expect(formatInspection(model, "m.onnx")).toBe(`m.onnx: operator set 17, 1,234 parameters

        Name  Type       Shape
--------------------------------------
input   x     float32    [batch, ?, 3]
output  list  no tensor  ?

Operator            Count  Gradient
-----------------------------------------
com.microsoft.Gelu     12  yes, rewritten

No layer that can be adapted.`);
  });

  it("ends with the verdict", () => {
    const verdict = { targets: ["a"], parameters: 64, obstacles: [], faults: [] };
    expect(formatInspection({ ...model, verdict: { ...verdict, trainable: true } }, "m")).toMatch(
      /\n\nTrainable: 64 parameters in 1 layer\.$/,
    );
    const obstacles = [{ operator: "Loop", nodes: ["one", "two"] }];
    const faults = ["gradients do not go through control flow"];
    expect(formatInspection({ ...model, verdict: { ...verdict, trainable: false, obstacles, faults } }, "m")).toMatch(
      /\n\nNot trainable:\n {2}- gradients do not go through control flow\nIn the way:\n {2}Loop: one, two$/,
    );
  });
});

describe("formatGradcheck", () => {
  it("marks what differs", () => {
    const rows = [
      { key: "base_model.model.fc.lora_A.weight", analytic: 0.5, numeric: 0.5, error: 1e-7 },
      { key: "base_model.model.fc.lora_B.weight", analytic: -2, numeric: 1, error: 3 },
    ];
    expect(
      formatGradcheck({ rows, precision: "float64", withoutRounding: false, tolerance: 0.001, passed: false }),
    ).toBe(`Parameter            Gradient  Difference   Error
----------------------------------------------------------
fc.lora_A.weight   5.00000e-1  5.00000e-1  1.0e-7
fc.lora_B.weight  -2.00000e+0  1.00000e+0  3.0e+0  differs

Failed: 1 of 2 gradients within 0.001 of float64 differences.`);
  });

  it("says so when nothing was compared", () => {
    const rows = [{ key: "a", analytic: 0, numeric: 0, error: 0 }];
    const checked = { rows, precision: "float64", withoutRounding: true, tolerance: 0.001, passed: true };
    expect(formatGradcheck(checked)).toMatch(
      /\n\nPassed: 1 of 1 .*\nActivations are quantized: checked without that rounding, .*\nAll of them are zero here, which shows little: try other inputs or another seed\.$/,
    );
  });
});
