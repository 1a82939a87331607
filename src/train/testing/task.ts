// A small task for tests of the loop: examples, a source of them, an adapter to train on them, and what it is evaluated on.
import type { AdaptedModel } from "../../lora/adapted.ts";
import { attachLora } from "../../lora/attach.ts";
import { createRandom } from "../../random.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { batchesOf, type DataSource } from "../data-source.ts";
import type { EvaluationOptions } from "../evaluation.ts";
import { accuracy } from "../metrics.ts";
import type { Batch } from "../step.ts";
import { fixtureModel } from "./fixture.ts";

/** Examples whose class is the largest of their first four features. */
export function task(count: number, name = "task"): Batch {
  const random = createRandom(3, name);
  const x = Float32Array.from({ length: count * 8 }, () => random.normal());
  const labels = BigInt64Array.from({ length: count }, (_, row) => {
    const first = [...x.subarray(8 * row, 8 * row + 4)];
    return BigInt(first.indexOf(Math.max(...first)));
  });
  return { inputs: { x: tensor("float32", [count, 8], x) }, labels: tensor("int64", [count], labels) };
}

/** Rows `from` to `to` of a batch. */
export function slice({ inputs, labels }: Batch, from: number, to: number): Batch {
  const rows = (value: Tensor): Tensor => {
    const width = value.data.length / value.dims[0]!;
    const data = (value.data as Float32Array).slice(from * width, to * width);
    return { ...value, dims: [to - from, ...value.dims.slice(1)], data } as Tensor;
  };
  return {
    inputs: Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, rows(value)])),
    labels: rows(labels),
  };
}

export const lora: () => AdaptedModel = () => attachLora(fixtureModel(), { r: 2, loraAlpha: 4 });
export const examples: Batch = task(44);
export const source: (seed?: number) => DataSource = (seed = 1) => batchesOf(examples, { batchSize: 6, seed });

export const evaluation: EvaluationOptions = {
  sets: { target: [task(20, "target")], retained: () => [task(9, "retained"), task(4, "more")] },
  metrics: { accuracy: accuracy() },
};
