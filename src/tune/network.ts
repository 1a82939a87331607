// The network of `--layers`: linear layers with ReLU between them, started as torch.nn.Linear starts (He et al. 2015 with
// a = sqrt(5), which comes down to U(-1/sqrt(in), 1/sqrt(in)) for weights and biases).
import { throwFaults } from "../errors.ts";
import { fillUniform } from "../lora/init/random.ts";
import { createModel, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom } from "../random.ts";
import { elementCount, tensor } from "../tensor.ts";

const opset = 17;

/**
 * An untrained network: x [batch, sizes[0]] -> logits [batch, sizes.at(-1)]. Its layers are fc1, fc2, …, each drawn from a
 * stream of the seed of its own.
 *
 * @throws LowrankError "config" for fewer than two sizes, or sizes that are no whole numbers of 1 or more.
 * @example const model = linearNetwork([784, 1000, 2000, 10], 0);
 */
export function linearNetwork(sizes: readonly number[], seed: number): Model {
  const faulty = sizes.filter((size) => !(Number.isSafeInteger(size) && size >= 1));
  throwFaults("config", "layers", [
    ...(sizes.length >= 2 ? [] : [`expected two sizes or more (inputs, …, outputs), got ${sizes.length}`]),
    ...faulty.map((size) => `expected whole numbers of 1 or more, got ${size}`),
  ]);
  const g = graphBuilder({ name: "layers", opset });
  let value: Value = g.input("x", "float32", ["batch", sizes[0]!]);
  for (let layer = 1; layer < sizes.length; layer++) {
    const [inFeatures, outFeatures] = [sizes[layer - 1]!, sizes[layer]!];
    const draw = (name: string, dims: number[]): Value => {
      const values = new Float32Array(elementCount(dims));
      fillUniform(values, createRandom(seed, `init ${name}`), 1 / Math.sqrt(inFeatures));
      return g.initializer(name, tensor("float32", dims, values));
    };
    const weight = draw(`fc${layer}.weight`, [outFeatures, inFeatures]);
    const bias = draw(`fc${layer}.bias`, [outFeatures]);
    const isLast = layer === sizes.length - 1;
    value = g.op(
      "Gemm",
      [value, weight, bias],
      { transB: 1 },
      { name: `/fc${layer}/Gemm`, ...(isLast && { output: "logits" }) },
    );
    if (!isLast) value = g.op("Relu", [value], {}, { name: layer === 1 ? "/Relu" : `/Relu_${layer - 1}` });
  }
  g.output(value, "float32", ["batch", sizes.at(-1)!]);
  return createModel(g.build(), { opset });
}
