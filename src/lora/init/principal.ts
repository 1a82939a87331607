// Factors from the weights themselves, which leave a residual behind. PiSSA (Meng, Wang and Zhang 2024, arXiv:2404.02948):
// with W = U S V^T, s B A are the first r singular triplets. OLoRA (Büyükakyüz 2024, arXiv:2406.01775): with W = Q R,
// B = Q[:, :r] and A = R[:r]. The mathematics is that of PEFT 0.21 (tuners/lora/layer.py: pissa_init, olora_init).
import type { LinearMap } from "../../linalg/linear-map.ts";
import { type Matrix, transpose } from "../../linalg/matrix.ts";
import { qr } from "../../linalg/qr.ts";
import type { Svd } from "../../linalg/svd.ts";
import { truncatedSvd } from "../../linalg/truncated-svd.ts";
import type { Factors } from "./random.ts";

/** How the base's weights are split. */
export type PrincipalMethod =
  | { readonly kind: "pissa"; readonly iterations: number | null }
  | { readonly kind: "olora" };

/** The method that a value of initLoraWeights names; undefined when it leaves the base's weights alone. */
export function principalMethod(method: boolean | string): PrincipalMethod | undefined {
  if (method === "olora") return { kind: "olora" };
  if (method === "pissa") return { kind: "pissa", iterations: null };
  const count = typeof method === "string" ? /^pissa_niter_(\d{1,4})$/.exec(method)?.[1] : undefined;
  return count === undefined ? undefined : { kind: "pissa", iterations: Number(count) };
}

/** Whether the same weights always give the same factors, so that a residual can be computed again. */
export function isReproducible(method: PrincipalMethod): boolean {
  return method.kind === "olora" || method.iterations === null;
}

/**
 * Fills A [r, in] and B [out, r] from W. Ranks beyond the smaller side of W stay zero (PEFT drops them, at the same scale).
 * Cost: that of the truncated SVD (pissa), or 4 r in out + 4 r^2 out operations (olora).
 */
export function principalFactors(
  weight: LinearMap,
  method: PrincipalMethod,
  { r, scale, seed }: { readonly r: number; readonly scale: number; readonly seed: number },
  { A, B }: Factors,
): void {
  if (method.kind === "olora") {
    const { q, rows } = orthogonalPart(weight, r);
    setRows(A, rows.data, rows.rows, weight.columns, () => 1);
    setColumns(B, q, r, () => 1);
    return;
  }
  const { iterations } = method;
  // As many vectors as torch.svd_lowrank has: no more than r.
  const options = iterations === null ? {} : { iterations, oversampling: 0, seed };
  fillFactors(truncatedSvd(weight, r, options), scale, { A, B }, r);
}

/** A [r, in] and B [out, r] with scale * B A = u diag(s) v^T, the singular values shared out between both. */
export function fillFactors({ u, s, v }: Svd, scale: number, { A, B }: Factors, r: number): void {
  const root = (k: number): number => Math.sqrt(s[k]! / scale);
  setRows(A, transpose(v).data, s.length, v.rows, root);
  setColumns(B, u, r, root);
}

/** Q[:, :r] and R[:r]: the first r columns of W decide them, as R[:r] = Q[:, :r]^T W. */
function orthogonalPart(weight: LinearMap, r: number): { q: Matrix; rows: Matrix } {
  const k = Math.min(r, weight.rows, weight.columns);
  const units: Matrix = { rows: k, columns: weight.columns, data: new Float64Array(k * weight.columns) };
  for (let i = 0; i < k; i++) units.data[i * weight.columns + i] = 1;
  const { q } = qr(transpose(weight.apply(units)));
  return { q, rows: weight.applyTranspose(transpose(q)) };
}

function setRows(
  A: Float32Array,
  rows: Float64Array,
  count: number,
  length: number,
  factor: (k: number) => number,
): void {
  for (let k = 0; k < count; k++) {
    for (let i = 0; i < length; i++) A[k * length + i] = rows[k * length + i]! * factor(k);
  }
}

function setColumns(B: Float32Array, columns: Matrix, r: number, factor: (k: number) => number): void {
  for (let o = 0; o < columns.rows; o++) {
    for (let k = 0; k < columns.columns; k++) B[o * r + k] = columns.data[o * columns.columns + k]! * factor(k);
  }
}
