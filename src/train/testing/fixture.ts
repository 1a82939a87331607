// test/fixtures/train/mlp.json: PyTorch's training of an 8-16-4 network, and its losses (scripts/fixtures/train.py).
import { readFileSync } from "node:fs";
import type { Adapter, AdapterConfig } from "../../lora/config.ts";
import { adapterKeys } from "../../lora/keys.ts";
import { createModel, graphBuilder } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { Batch } from "../step.ts";

interface Values {
  readonly dims: number[];
  readonly data: number[];
}

interface Trained {
  readonly losses: number[];
  readonly parameters: Readonly<Record<string, Values>>;
}

interface Fixture {
  readonly learningRate: number;
  readonly r: number;
  readonly loraAlpha: number;
  readonly weights: Readonly<Record<string, Values>>;
  readonly adapter: Readonly<Record<string, Values>>;
  readonly batches: readonly { readonly x: Values; readonly labels: number[] }[];
  readonly lora: Trained;
  readonly full: Trained;
  readonly losses: readonly {
    readonly name: string;
    readonly output: Values;
    readonly labels: Values;
    readonly loss: number;
    readonly gradient: number[];
  }[];
}

export const fixture = JSON.parse(
  readFileSync(new URL("../../../test/fixtures/train/mlp.json", import.meta.url), "utf8"),
) as Fixture;

export function floats({ dims, data }: Values): Tensor<"float32"> {
  return tensor("float32", dims, Float32Array.from(data));
}

export function classes(labels: readonly number[], dims: readonly number[] = [labels.length]): Tensor<"int64"> {
  return tensor("int64", dims, BigInt64Array.from(labels, BigInt));
}

/** The network: x [batch, 8] -> logits [batch, 4]. */
export function fixtureModel(): Model {
  const g = graphBuilder({ name: "mlp", opset: 17 });
  const weight = (name: string) => g.initializer(name, floats(fixture.weights[name]!));
  const layer = (x: string, name: string) =>
    g.op("Gemm", [x, weight(`${name}.weight`), weight(`${name}.bias`)], { transB: 1 }, { name: `/${name}/Gemm` });
  const hidden = g.op("Relu", [layer(g.input("x", "float32", ["batch", 8]), "fc1")]);
  const logits = g.op("Identity", [layer(hidden, "fc2")], {}, { output: "logits" });
  g.output(logits, "float32", ["batch", 4]);
  return createModel(g.build(), { opset: 17 });
}

/** PyTorch's name of an adapter's tensor, `fc1.lora_A`, as a key of ours. */
export function keyOf(name: string): string {
  const [path, matrix] = name.split(".") as [string, string];
  const { a, b } = adapterKeys(path);
  return matrix === "lora_A" ? a : b;
}

/** The adapter that training starts from: A is given, B is zero. */
export function fixtureAdapter(config: AdapterConfig): Adapter {
  return {
    config,
    tensors: new Map(Object.entries(fixture.adapter).map(([name, values]) => [keyOf(name), floats(values)])),
  };
}

/** The five batches, of 6, 6, 3, 7 and 1 examples, over and over. */
export function* fixtureBatches(count: number): Generator<Batch> {
  for (let step = 0; step < count; step++) {
    const { x, labels } = fixture.batches[step % fixture.batches.length]!;
    yield { inputs: { x: floats(x) }, labels: classes(labels) };
  }
}
