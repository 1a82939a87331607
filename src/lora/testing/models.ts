// Small models for tests: a Linear layer in each way in which exporters write one, and stacks of them.
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { elementCount, type Tensor, tensor, toBytes } from "../../tensor.ts";

export const opset = 17;

/** float32 values in [-1, 1) that `name` alone decides. */
export function drawn(name: string, ...dims: number[]): Tensor<"float32"> {
  const random = createRandom(7, name);
  return tensor(
    "float32",
    dims,
    Float32Array.from({ length: elementCount(dims) }, () => 2 * random.uniform() - 1),
  );
}

/** How a layer is written: Gemm over W [out, in] or [in, out], or MatMul over [in, out] with an Add behind it. */
export type LayerForm = "Gemm out,in" | "Gemm in,out" | "MatMul";
export const layerForms: readonly LayerForm[] = ["Gemm out,in", "Gemm in,out", "MatMul"];

/** A Linear layer called `path`, with a bias unless told otherwise. */
export function linear(
  g: GraphBuilder,
  x: Value,
  path: string,
  [inFeatures, outFeatures]: readonly [number, number],
  form: LayerForm,
  hasBias = true,
): Value {
  const dims = form === "Gemm out,in" ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
  const weight = g.initializer(`${path}.weight`, drawn(`${path}.weight`, ...dims));
  const bias = hasBias ? [g.initializer(`${path}.bias`, drawn(`${path}.bias`, outFeatures))] : [];
  const name = { name: `/${path.replaceAll(".", "/")}/${form.split(" ")[0]}` };
  if (form !== "MatMul") return g.op("Gemm", [x, weight, ...bias], form === "Gemm out,in" ? { transB: 1 } : {}, name);
  const product = g.op("MatMul", [x, weight], {}, name);
  return bias.length === 0 ? product : g.op("Add", [product, ...bias]);
}

/** x [batch, 3] -> fc1 (3 -> 5) -> Tanh -> fc2 (5 -> 4) -> y [batch, 4]; "3d" has x [batch, tokens, 3]. */
export function twoLayers(form: LayerForm = "Gemm out,in", shape: "2d" | "3d" = "2d"): Model {
  const g = graphBuilder({ name: "two-layers", opset });
  const batch = shape === "2d" ? ["batch"] : ["batch", "tokens"];
  const x = g.input("x", "float32", [...batch, 3]);
  const h = g.op("Tanh", [linear(g, x, "fc1", [3, 5], form)]);
  const y = g.op("Identity", [linear(g, h, "fc2", [5, 4], form)], {}, { output: "y" });
  g.output(y, "float32", [...batch, 4]);
  return createModel(g.build(), { opset });
}

/** x [batch, 4] through a layer of each path, all 4 -> 4. */
export function stack(paths: readonly string[]): Model {
  const g = graphBuilder({ name: "stack", opset });
  let value = g.input("x", "float32", ["batch", 4]);
  for (const path of paths) value = linear(g, value, path, [4, 4], "Gemm out,in");
  g.output(value, "float32", ["batch", 4]);
  return createModel(g.build(), { opset });
}

/** A deep copy of everything that a model says, weights included: to see later that nothing has changed. */
export function snapshot(model: Model): unknown {
  const { functions, ...plain } = model;
  return structuredClone({ ...plain, functions: functions.length });
}

/** The bits of float32 values, so that -0 differs from 0 and NaN equals itself. */
export function bits({ data }: Tensor): number[] {
  const bytes = toBytes(data).slice();
  return [...new Uint32Array(bytes.buffer)];
}
