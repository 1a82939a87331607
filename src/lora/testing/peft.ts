// test/fixtures/lora: PEFT's own answers on one network (scripts/fixtures/lora.py), and that network as a model.
import { readFileSync } from "node:fs";
import { createModel, graphBuilder } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { type Tensor, tensor } from "../../tensor.ts";

export interface Values {
  readonly dims: number[];
  readonly data: number[];
}
export type Named = Readonly<Record<string, Values>>;

/** One of the files, and the weights that are in each but layers.json. */
export function peftFixture<T>(name: string): T & { readonly weights: Named } {
  const url = new URL(`../../../test/fixtures/lora/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(url, "utf8")) as T & { readonly weights: Named };
}

export function floats({ dims, data }: Values): Tensor<"float32"> {
  return tensor("float32", dims, Float32Array.from(data));
}

export function tensors(named: Named): Map<string, Tensor> {
  return new Map(
    Object.entries(named).map(([key, values]) => [
      `base_model.model.${key.replace(/^base_model\.model\./, "")}`,
      floats(values),
    ]),
  );
}

/** How the layers are written: as Gemm over W [out, in], as MatMul over [in, out], or as MatMul over a transposed W. */
export type Form = "Gemm" | "MatMul" | "Transpose";

/** x [batch, 6] -> fc1 -> tanh -> fc2 -> tanh -> fc3 -> y [batch, 3]. */
export function peftNetwork(weights: Named, form: Form = "Gemm"): Model {
  const g = graphBuilder({ name: "network", opset: 18 });
  let value = g.input("x", "float32", ["batch", 6]);
  for (const name of ["fc1", "fc2", "fc3"]) {
    const { dims, data } = weights[`${name}.weight`]!;
    const [out, width] = dims as [number, number];
    const bias = g.initializer(`${name}.bias`, floats(weights[`${name}.bias`]!));
    const options = { name: `/${name}/${form === "Gemm" ? "Gemm" : "MatMul"}` };
    if (form === "MatMul") {
      const turned = data.map((_, i) => data[(i % out) * width + Math.floor(i / out)]!);
      const weight = g.initializer(`${name}.weight`, floats({ dims: [width, out], data: turned }));
      value = g.op("Add", [g.op("MatMul", [value, weight], {}, options), bias]);
    } else {
      const weight = g.initializer(`${name}.weight`, floats({ dims, data }));
      value =
        form === "Gemm"
          ? g.op("Gemm", [value, weight, bias], { transB: 1 }, options)
          : g.op("Add", [g.op("MatMul", [value, g.op("Transpose", [weight], { perm: [1, 0] })], {}, options), bias]);
    }
    value = name === "fc3" ? g.op("Identity", [value], {}, { output: "y" }) : g.op("Tanh", [value]);
  }
  g.output(value, "float32", ["batch", 3]);
  return createModel(g.build(), { opset: 18 });
}

/** The largest difference of two tensors of one shape. */
export function gap(a: Tensor | undefined, b: Values): number {
  if (a === undefined || a.dims.join() !== b.dims.join()) return Number.POSITIVE_INFINITY;
  return b.data.reduce((most, value, i) => Math.max(most, Math.abs(value - Number(a.data[i]))), 0);
}
