// Labels in the shape that a loss wants.
import type { Dim } from "../onnx/model.ts";
import { type TensorType, tensor } from "../tensor.ts";
import type { DataSource } from "../train/data-source.ts";

/** Values [batch] as [batch, 1], where the output that they are compared with has a last axis of one. */
export function labelsLike(source: DataSource, output: readonly Dim[] | undefined): DataSource {
  if (output?.at(-1) !== 1) return source;
  return {
    ...source,
    async *batches(position) {
      for await (const given of source.batches(position)) {
        const { labels } = given.batch;
        const isFlat = labels.type !== "int64" && labels.dims.length === output.length - 1;
        const shaped = isFlat ? tensor<TensorType>(labels.type, [...labels.dims, 1], labels.data) : labels;
        yield { ...given, batch: { ...given.batch, labels: shaped } };
      }
    },
  };
}
