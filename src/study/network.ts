// The study's network: 784-1000-2000-10 with ReLU between, and, in the documented form, on the logits too (STUDY: "ReLU-6").

import { fillUniform } from "../lora/init/random.ts";
import { createModel, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom } from "../random.ts";
import { elementCount, tensor } from "../tensor.ts";
import type { Head } from "./result.ts";

/** Features at each level, from pixels to digits. */
export const layerSizes = [784, 1000, 2000, 10] as const;

/** Module paths of the three linear layers. */
export const linearModules = ["fc1", "fc2", "fc3"] as const;

const opset = 17;

/**
 * The untrained network: x [batch, 784] -> logits [batch, 10]. Weights and biases start as torch.nn.Linear's do,
 * U(-1/sqrt(in), 1/sqrt(in)), from a stream of the seed for each tensor.
 */
export function studyNetwork(head: Head, seed: number): Model {
  const g = graphBuilder({ name: `study-${head}`, opset });
  let value: Value = g.input("x", "float32", ["batch", layerSizes[0]]);
  linearModules.forEach((module, index) => {
    const [inFeatures, outFeatures] = [layerSizes[index]!, layerSizes[index + 1]!];
    const isLast = index === linearModules.length - 1;
    const draw = (name: string, dims: number[]): Value => {
      const values = new Float32Array(elementCount(dims));
      fillUniform(values, createRandom(seed, `init ${name}`), 1 / Math.sqrt(inFeatures));
      return g.initializer(name, tensor("float32", dims, values));
    };
    const weight = draw(`${module}.weight`, [outFeatures, inFeatures]);
    const bias = draw(`${module}.bias`, [outFeatures]);
    const linear = { name: `/${module}/Gemm`, ...(isLast && head === "linear" && { output: "logits" }) };
    value = g.op("Gemm", [value, weight, bias], { transB: 1 }, linear);
    if (isLast && head === "linear") return;
    const relu = index === 0 ? "/Relu" : `/Relu_${index}`;
    value = g.op("Relu", [value], {}, { name: relu, ...(isLast && { output: "logits" }) });
  });
  g.output(value, "float32", ["batch", layerSizes.at(-1)!]);
  return createModel(g.build(), { opset });
}
