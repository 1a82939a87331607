// What may stand beside the way from the adapters to the loss, and may not stand on it.
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Attribute, Model } from "../onnx/model.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { meanSquaredError } from "./losses.ts";
import { support } from "./support.ts";
import { valueAndGrad } from "./value-and-grad.ts";

/** x -> below -> Linear "fc" -> above -> y; sizes stay [2, 3]. */
function around(below: (g: GraphBuilder, x: Value) => Value, above: (g: GraphBuilder, x: Value) => Value): Model {
  const g = graphBuilder({ opset: 20 });
  const x = g.input("x", "float32", [2, 3]);
  const h = g.op("MatMul", [below(g, x), g.initializer("fc.weight", drawn("fc", 3, 3))]);
  g.output(g.op("Identity", [above(g, h)], {}, { output: "y" }), "float32", [2, 3]);
  const built = createModel(g.build(), { opset: 20 });
  return { ...built, opsets: new Map([...built.opsets, ["com.microsoft", 1]]) };
}

const same = (_: GraphBuilder, x: Value): Value => x;

function body(name: string, write: (b: GraphBuilder) => void): Attribute {
  const b = graphBuilder({ opset: 20, name, scope: `${name}/` });
  write(b);
  return { kind: "graph", value: b.build() };
}

/** Twice x, by way of an operator of each kind. */
const twice: Readonly<Record<string, (g: GraphBuilder, x: Value) => Value>> = {
  If: (g, x) => {
    const branch = (name: string): Attribute =>
      body(name, (b) => {
        b.output(b.op("Add", [x, x], {}, { output: `${name}/out` }), "float32", [2, 3]);
      });
    const condition = g.op("Greater", [g.op("Size", [x]), g.constant("int64", 0)]);
    return g.op("If", [condition], { then_branch: branch("then"), else_branch: branch("else") });
  },
  Loop: (g, x) => {
    const loop = body("loop", (b) => {
      b.input("loop/count", "int64", []);
      const going = b.input("loop/going", "bool", []);
      const state = b.input("loop/state", "float32", [2, 3]);
      b.output(b.op("Identity", [going], {}, { output: "loop/still" }), "bool", []);
      b.output(b.op("Add", [state, x], {}, { output: "loop/next" }), "float32", [2, 3]);
    });
    return g.op("Loop", [g.constant("int64", 1), "", x], { body: loop });
  },
  Scan: (g, x) => {
    const scan = body("scan", (b) => {
      const row = b.input("scan/row", "float32", [3]);
      b.output(b.op("Add", [row, row], {}, { output: "scan/out" }), "float32", [3]);
    });
    return g.op("Scan", [x], { body: scan, num_scan_inputs: 1 });
  },
  SequenceAt: (g, x) => {
    const list = g.op("SequenceConstruct", [x, g.op("Add", [x, x])]);
    return g.op("Reshape", [g.op("SequenceAt", [list, g.constant("int64", 1)]), g.constant("int64", [2, 3])]);
  },
};

describe.each(Object.keys(twice))("%s", (kind) => {
  it("is refused by name between an adapter and the loss", () => {
    const model = around(same, twice[kind]!);
    const { verdict } = support(model, { r: 2, targetModules: ["fc"] });
    expect(verdict.trainable).toBe(false);
    expect(verdict.faults.join()).toMatch(
      new RegExp(`gradients do not go through .*${kind} .*between the adapters and the loss`),
    );
    expect(verdict.obstacles.map(({ operator }) => operator)).toContain(kind);
  });

  it("is run as it is where it is not", async () => {
    const batch = { inputs: { x: drawn("x", 2, 3) }, labels: drawn("labels", 2, 3) };
    const results: Map<string, Tensor>[] = [];
    for (const below of [twice[kind]!, (g: GraphBuilder, x: Value) => g.op("Add", [x, x])]) {
      const adapted = attachLora(around(below, same), { r: 2, targetModules: ["fc"] });
      const tensors = new Map(adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)]));
      const { grads } = await valueAndGrad(adapted, { tensors }, batch, meanSquaredError());
      results.push(grads);
      await adapted.dispose();
    }
    expect(results[0]).toEqual(results[1]);
    expect([...results[0]!.values()].every(({ data }) => data.some((value) => Math.abs(Number(value)) > 1e-3))).toBe(
      true,
    );
  });
});

describe("operators that compute in integers", () => {
  const int8 = (g: GraphBuilder, name: string, dims: number[]) =>
    g.initializer(name, tensor("int8", dims, new Int8Array(dims.reduce((a, b) => a * b)).fill(1)));

  it.each<[string, (g: GraphBuilder, x: Value) => Value]>([
    [
      "ConvInteger",
      (g, x) => {
        const image = g.op("Reshape", [x, g.constant("int64", [1, 1, 2, 3])]);
        const [q, scale, zero] = g.ops("DynamicQuantizeLinear", [image], 3) as [Value, Value, Value];
        const sum = g.op("ConvInteger", [q, int8(g, "kernel", [1, 1, 1, 1]), zero]);
        const y = g.op("Mul", [g.op("Cast", [sum], { to: 1 }), scale]);
        return g.op("Reshape", [y, g.constant("int64", [2, 3])]);
      },
    ],
    [
      "QLinearMatMul",
      (g, x) => {
        const [scale, zero] = [g.constant("float32", 0.1), g.initializer("zero", tensor("int8", [], Int8Array.of(0)))];
        const q = g.op("QuantizeLinear", [x, scale, zero]);
        const y = g.op("QLinearMatMul", [q, scale, zero, int8(g, "w8", [3, 3]), scale, zero, scale, zero]);
        return g.op("DequantizeLinear", [y, scale, zero]);
      },
    ],
    [
      "com.microsoft.QLinearAdd",
      (g, x) => {
        const [scale, zero] = [g.constant("float32", 0.1), g.initializer("zero", tensor("int8", [], Int8Array.of(0)))];
        const q = g.op("QuantizeLinear", [x, scale, zero]);
        const y = g.op("QLinearAdd", [q, scale, zero, q, scale, zero, scale, zero], {}, { domain: "com.microsoft" });
        return g.op("DequantizeLinear", [y, scale, zero]);
      },
    ],
  ])("%s is refused by name, with what to export instead", (operator, above) => {
    const { verdict } = support(around(same, above), { r: 2, targetModules: ["fc"] });
    expect(verdict.obstacles.map((obstacle) => obstacle.operator)).toContain(operator);
    expect(verdict.faults.join()).toMatch(
      new RegExp(
        `gradients do not go through ${operator.replace(".", "\\.")} .* computes in integers .*DequantizeLinear or MatMulNBits`,
      ),
    );
  });
});

it.each([6, 24, 25, 26])("operator set %i is refused by its number", (opset) => {
  const model = around(same, same);
  const other = { ...model, opsets: new Map([["", opset]]) };
  expect(() => attachLora(other, { r: 2, targetModules: ["fc"] })).toThrow(`operator set ${opset}: expected 7 to 23`);
});
