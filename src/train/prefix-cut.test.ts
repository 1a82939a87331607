import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import { checkModel } from "../onnx/check.ts";
import type { Model } from "../onnx/model.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { cutPrefix, type PrefixCut } from "./prefix-cut.ts";

/** Writes layers with weights of zeros: only sizes matter here. */
function layers(g: GraphBuilder) {
  return {
    gemm: (x: Value, name: string, from: number, to: number): Value =>
      g.op("Gemm", [x, g.initializer(`${name}.weight`, zeros([to, from]))], { transB: 1 }, { name: `/${name}/Gemm` }),
    matMul: (x: Value, name: string, from: number, to: number): Value =>
      g.op("MatMul", [x, g.initializer(`${name}.weight`, zeros([from, to]))], {}, { name: `/${name}/MatMul` }),
    conv: (x: Value, name: string, from: number, to: number): Value =>
      g.op(
        "Conv",
        [x, g.initializer(`${name}.weight`, zeros([to, from, 3, 3]))],
        { pads: [1, 1, 1, 1] },
        { name: `/${name}/Conv` },
      ),
  };
}

function modelOf(build: (g: GraphBuilder) => void): Model {
  const g = graphBuilder({ opset: 18 });
  build(g);
  return createModel(g.build(), { opset: 18 });
}

function cut(model: Model, target: string, inputs: Record<string, Tensor>): PrefixCut | null {
  const adapted = attachLora(model, { r: 2, targetModules: [target] });
  const found = cutPrefix(adapted.model, adapted.parameters, inputs);
  if (found !== null) {
    expect(checkModel(found.prefix)).toEqual([]);
    expect(checkModel(found.rest)).toEqual([]);
  }
  return found;
}

const floats = (...dims: number[]): Tensor => zeros(dims);
const operators = ({ graph }: Model): string[] => graph.nodes.map(({ op }) => op);

describe("where a model is cut", () => {
  const network = modelOf((g) => {
    const { gemm } = layers(g);
    const hidden = g.op("Relu", [gemm(g.input("x", "float32", ["batch", 784]), "fc1", 784, 1000)]);
    const features = g.op("Relu", [gemm(hidden, "fc2", 1000, 2000)], {}, { output: "features" });
    g.output(g.op("Identity", [gemm(features, "fc3", 2000, 10)], {}, { output: "logits" }), "float32", ["batch", 10]);
  });

  it("takes in all that is below the trained layer, activations of the same size included", () => {
    const found = cut(network, "fc3", { x: floats(4, 784) })!;
    // The frozen product of the trained layer is kept as well.
    expect(operators(found.prefix)).toEqual(["Gemm", "Relu", "Gemm", "Relu", "Gemm"]);
    expect(found.kept.map(({ name, dims }) => [name, dims])).toEqual([
      ["features", [2000]],
      [expect.stringContaining("fc3"), [10]],
    ]);
    expect(found.nodes).toBe(5);
    expect([...found.rest.graph.initializers.keys()].filter((name) => name.startsWith("fc"))).toEqual([]);
    const inputs = found.rest.graph.inputs.map(({ name, shape }) => `${name} [${shape}]`);
    expect(inputs.slice(-2)[0]).toBe("features [batch,2000]");
    expect(inputs.some((input) => input.startsWith("x "))).toBe(false);
    expect(found.prefix.graph.inputs.map(({ name }) => name)).toEqual(["x"]);
  });

  it("cuts nothing off where the first layer is trained, or all weights are", () => {
    expect(cut(network, "fc1", { x: floats(4, 784) })).toBeNull();
    const whole = attachAll(network);
    expect(cutPrefix(whole.model, whole.parameters, { x: floats(4, 784) })).toBeNull();
  });

  it("keeps less where a cheap operator makes it less, and leaves out what makes it more", () => {
    const pooled = modelOf((g) => {
      const { conv, gemm } = layers(g);
      const image = conv(g.input("image", "float32", ["batch", 16, 8, 8]), "conv", 16, 64);
      const small = g.op("MaxPool", [g.op("Relu", [image])], { kernel_shape: [2, 2], strides: [2, 2] });
      const flat = g.op("Flatten", [small]);
      // Twice as wide as what it is made of.
      const wide = g.op("Concat", [flat, g.op("Neg", [flat])], { axis: 1 });
      g.output(gemm(wide, "head", 2048, 10), "float32", ["batch", 10]);
    });
    const found = cut(pooled, "head", { image: floats(2, 16, 8, 8) })!;
    expect(operators(found.prefix)).toEqual(["Conv", "Relu", "MaxPool", "Flatten", "Neg", "Concat", "Gemm"]);
    expect(found.kept.map(({ dims }) => dims)).toEqual([[1024], [10]]);
    expect(operators(found.rest).slice(0, 2)).toEqual(["Neg", "Concat"]);
  });

  it("keeps the residual stream and the layer's own product, and normalizes again for A", () => {
    const residual = modelOf((g) => {
      const { matMul } = layers(g);
      const x = g.input("x", "float32", ["batch", "tokens", 256]);
      const stream = g.op("Add", [x, matMul(x, "below", 256, 256)], {}, { output: "stream" });
      const normed = g.op("LayerNormalization", [stream, g.initializer("ln", zeros([256]))], { axis: -1 });
      g.output(g.op("Add", [stream, matMul(normed, "above", 256, 256)]), "float32", ["batch", "tokens", 256]);
    });
    const found = cut(residual, "above", { x: floats(2, 5, 256) })!;
    expect(found.kept.map(({ name, dims }) => [name, dims])).toEqual([
      ["stream", [5, 256]],
      [expect.stringContaining("above"), [5, 256]],
    ]);
    expect(operators(found.prefix)).toContain("LayerNormalization");
    expect(operators(found.rest)).toContain("LayerNormalization");
  });

  it("does not cut through what has no row for each example", () => {
    const flat = modelOf((g) => {
      const { gemm } = layers(g);
      const x = g.input("x", "float32", ["batch", 4, 256]);
      const rows = gemm(g.op("Reshape", [x, g.constant("int64", [-1, 256])]), "below", 256, 256);
      const again = g.op("Reshape", [rows, g.constant("int64", [-1, 4, 256])], {}, { output: "again" });
      g.output(gemm(g.op("Reshape", [again, g.constant("int64", [-1, 256])]), "above", 256, 8), "float32", [null, 8]);
    });
    const found = cut(flat, "above", { x: floats(3, 4, 256) })!;
    expect(found.kept).toEqual([{ name: "again", type: "float32", dims: [4, 256] }]);
  });

  it("runs again what is large and soon computed", () => {
    const thin = modelOf((g) => {
      const { conv, gemm } = layers(g);
      const image = conv(g.input("image", "float32", ["batch", 1, 8, 8]), "conv", 1, 32);
      g.output(gemm(g.op("Flatten", [image]), "head", 2048, 10), "float32", ["batch", 10]);
    });
    const found = cut(thin, "head", { image: floats(2, 1, 8, 8) })!;
    expect(found.kept.map(({ dims }) => dims)).toEqual([[10]]);
    expect(operators(found.prefix)).toEqual(["Conv", "Flatten", "Gemm"]);
    expect(operators(found.rest).slice(0, 2)).toEqual(["Conv", "Flatten"]);
  });

  it("keeps what is drawn at random, or read of what is no example, out of it", () => {
    const drawn = modelOf((g) => {
      const { gemm } = layers(g);
      const noise = g.op("RandomNormalLike", [g.input("x", "float32", ["batch", 64])]);
      const scale = g.input("scale", "float32", [1]);
      const one = gemm(noise, "one", 64, 64);
      const two = gemm(g.op("Mul", ["x", scale]), "two", 64, 64);
      g.output(gemm(g.op("Add", [one, two]), "head", 64, 8), "float32", ["batch", 8]);
    });
    expect(cut(drawn, "head", { x: floats(3, 64), scale: tensor("float32", [1], Float32Array.of(1)) })).toBeNull();
  });
});
