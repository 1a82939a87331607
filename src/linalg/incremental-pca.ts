// Principal components of data that comes in batches: Ross, Lim, Lin and Yang 2008, "Incremental learning for robust visual
// tracking", IJCV 77, 125-141, as scikit-learn's IncrementalPCA and PEFT 0.21 (utils/incremental_pca.py) have it.
import { denseMap } from "./linear-map.ts";
import { type Matrix, transpose } from "./matrix.ts";
import { truncatedSvd } from "./truncated-svd.ts";

/** What is known after some batches. */
export interface Components {
  /** Samples so far. */
  readonly count: number;
  readonly mean: Float64Array; // [features]
  /** The sum of squared distances from the mean, over all samples and features. */
  readonly scatter: number;
  readonly components: Matrix; // [k, features], orthonormal rows
  readonly singularValues: Float64Array; // [k]
  /** The share of the variance along each component. */
  readonly explained: Float64Array; // [k]
}

/**
 * The first k components of all batches so far, from those of the batches before and one batch more, rows [samples, features].
 * The entry of a component that is largest is positive. Costs a truncated SVD of [k + samples + 1, features].
 *
 * @param before null at the first batch; k is at most samples and features.
 */
export function addBatch(before: Components | null, rows: Matrix, k: number): Components {
  const { rows: samples, columns: features } = rows;
  if (k > samples || k > features) throw new Error(`internal: ${k} components of ${samples} x ${features} values`);
  const { mean: own, scatter: ownScatter } = momentsOf(rows);
  const seen = before?.count ?? 0;
  const count = seen + samples;
  const mean = own.map((value, j) => (seen * (before?.mean[j] ?? 0) + samples * value) / count);
  const gap = own.map((value, j) => (before === null ? 0 : before.mean[j]! - value));
  const scatter =
    (before?.scatter ?? 0) +
    ownScatter +
    ((seen * samples) / count) * gap.reduce((sum, value) => sum + value * value, 0);
  const { s, v } = truncatedSvd(stacked(before, rows, own, gap, Math.sqrt((seen / count) * samples)), k);
  return {
    count,
    mean,
    scatter,
    components: withPositivePeaks(transpose(v)),
    singularValues: s,
    explained: s.map((value) => (scatter === 0 ? 0 : (value * value) / scatter)),
  };
}

function momentsOf({ rows, columns, data }: Matrix): { mean: Float64Array; scatter: number } {
  const mean = new Float64Array(columns);
  for (let i = 0; i < data.length; i++) mean[i % columns] = mean[i % columns]! + data[i]! / rows;
  let scatter = 0;
  for (let i = 0; i < data.length; i++) scatter += (data[i]! - mean[i % columns]!) ** 2;
  return { mean, scatter };
}

/** The components so far at their sizes, the batch around its own mean, and the step between the means. */
function stacked(before: Components | null, batch: Matrix, mean: Float64Array, gap: Float64Array, weight: number) {
  const { columns } = batch;
  const kept = before?.components.rows ?? 0;
  const rows = batch.rows + (before === null ? 0 : kept + 1);
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < kept * columns; i++) {
    data[i] = before!.singularValues[Math.floor(i / columns)]! * before!.components.data[i]!;
  }
  for (let i = 0; i < batch.data.length; i++) data[kept * columns + i] = batch.data[i]! - mean[i % columns]!;
  if (before !== null) for (let j = 0; j < columns; j++) data[(rows - 1) * columns + j] = weight * gap[j]!;
  return denseMap(rows, columns, data);
}

function withPositivePeaks({ rows, columns, data }: Matrix): Matrix {
  const out = data.slice();
  for (let i = 0; i < rows; i++) {
    const row = out.subarray(i * columns, (i + 1) * columns);
    const peak = row.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    if (peak < 0) for (let j = 0; j < columns; j++) row[j] = -row[j]!;
  }
  return { rows, columns, data: out };
}
