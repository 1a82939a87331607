// Spectra of large layers, on the runtime's matrix products: randomized subspace iteration (Halko, Martinsson and Tropp 2011,
// SIAM Review 53(2), Algorithm 4.4 with Rayleigh-Ritz) on W C W^T, C = I or the second moments of the inputs, whose
// eigenvectors are the left singular vectors of W S (spectrum.ts) without S. Vectors are made orthonormal by Cholesky QR, its
// Gram matrices in float64 and shifted where they are nearly singular (Fukaya et al. 2020, SIAM J. Sci. Comput. 42(1)).
import { symmetricEigen } from "../linalg/eigen.ts";
import { type Matrix, matrix } from "../linalg/matrix.ts";
import { dot } from "../linalg/qr.ts";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { createRandom } from "../random.ts";
import { openSession, type SessionOptions } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { Spectrum, Weight } from "./spectrum.ts";

/** Layers whose smaller side is below this have their whole spectrum computed at once. */
export const leastSide = 512;

/** Vectors beyond those that are wanted: a share of them, and ten at least. */
const oversampling = 0.1;

const opset = 18;
/** ONNX's numbers (TensorProto.DataType). */
const dataTypes = { float32: 1, float64: 11 } as const;

/** The iteration ends when a step finds less than this share of the whole, or after so many. */
const settled = 1e-4;
const mostSteps = 10;

/**
 * The first `count` left singular vectors of W (of W S with moments) with their singular values: the error of the projection
 * is within about one per cent of the least one where singular values lie close together, nearer elsewhere. In float32, so
 * that values below 3e-4 of the largest are noise.
 *
 * Cost with l = 1.1 count vectors: 4 to 10 steps of 4 l out in operations (and 2 l in in with moments) in products, l^2 out beside,
 * and once 9 l^3 for the eigenvectors of the small matrix, which are plain JavaScript.
 *
 * @throws LowrankError "runtime" when the runtime is missing.
 */
export async function runtimeSpectrum(
  weight: Weight,
  count: number,
  moments: Matrix | undefined,
  options: SessionOptions,
): Promise<Spectrum> {
  const { out, into } = weight;
  const side = Math.min(out, into);
  const vectors = Math.min(side, Math.ceil(count * (1 + oversampling)) + 10);
  const sessions = await openSessions(weight, moments, options);
  try {
    const random = createRandom(0, "compress spectrum");
    let near = tensor(
      "float32",
      [vectors, out],
      Float32Array.from({ length: vectors * out }, () => random.normal()),
    );
    near = await orthonormal(near, sessions);
    for (let step = 1, found = 0; ; step++) {
      const { back, ritz } = await sessions.step(near);
      const energy = trace(ritz.data, vectors);
      if (step === mostSteps || energy - found <= settled * sessions.energy)
        return await finish(near, ritz, { count, side }, sessions);
      found = energy;
      near = await orthonormal(back, sessions);
    }
  } finally {
    await sessions.dispose();
  }
}

/** Rayleigh-Ritz: the eigenvectors of the operator on the span of `near` [l, out]. */
async function finish(
  near: Tensor<"float32">,
  ritz: Tensor<"float64">,
  { count, side }: { readonly count: number; readonly side: number },
  { energy, turn }: Sessions,
): Promise<Spectrum> {
  const l = near.dims[0]!;
  const { values, vectors } = symmetricEigen(matrix(l, l, ritz.data));
  const kept = Math.min(count, l);
  const isNoise = (value: number): boolean => !(value > values[0]! * 1e-7);
  const used = Math.max(1, kept - [...values.subarray(0, kept)].filter(isNoise).length);
  const { turned } = await turn(tensor("float64", [used, l], vectors.data.slice(0, used * l)), near);
  return {
    s: Float64Array.from(values.subarray(0, used), (value) => Math.sqrt(Math.max(0, value))),
    whole: Math.sqrt(energy),
    u: { rows: used, columns: near.dims[1]!, data: Float64Array.from(turned.data) },
    isComplete: used < kept || kept === side,
  };
}

/** |D S| for D [out, in]: the norm of what D makes of the data. */
export async function runtimeNormOnData(difference: Weight, moments: Matrix, options: SessionOptions): Promise<number> {
  const { out, into, values } = difference;
  const g = graphBuilder({ name: "norm", opset });
  const d = g.input("d", "float32", [out, into]);
  const product = g.op("Mul", [g.op("MatMul", [d, g.initializer("c", plainMoments(moments))]), d]);
  const rows = g.op("ReduceSum", [product, g.constant("int64", [1])], { keepdims: 0 });
  g.output(g.op("Identity", [rows], {}, { output: "rows" }), "float32", [out]);
  const session = await openSession(createModel(g.build(), { opset }), options);
  try {
    const found = await session.run(new Map([["d", tensor("float32", [out, into], values)]]));
    return Math.sqrt(Math.max(0, sum(found.get("rows")!.data as Float32Array)));
  } finally {
    await session.dispose();
  }
}

/** Left [m, k] times right [k, n]: [m, n]. */
export async function runtimeProduct(left: Weight, right: Weight, options: SessionOptions): Promise<Float32Array> {
  const g = graphBuilder({ name: "product", opset });
  const [a, b] = [left, right].map(({ out, into }, at) => g.input(`x${at}`, "float32", [out, into]));
  g.output(g.op("MatMul", [a!, b!], {}, { output: "product" }), "float32", [left.out, right.into]);
  const session = await openSession(createModel(g.build(), { opset }), options);
  try {
    const feeds = [left, right].map(
      ({ out, into, values }, at) => [`x${at}`, tensor("float32", [out, into], values)] as const,
    );
    return (await session.run(new Map(feeds))).get("product")!.data as Float32Array;
  } finally {
    await session.dispose();
  }
}

interface Sessions {
  /** The squared Frobenius norm of W S. */
  readonly energy: number;
  /** near W C W^T, and near (near W C W^T)^T. */
  step(near: Tensor<"float32">): Promise<{ back: Tensor<"float32">; ritz: Tensor<"float64"> }>;
  /** R X, and its Gram matrix R X (R X)^T. */
  turn(r: Tensor<"float64">, x: Tensor<"float32">): Promise<{ turned: Tensor<"float32">; gram: Tensor<"float64"> }>;
  dispose(): Promise<void>;
}

async function openSessions(weight: Weight, moments: Matrix | undefined, options: SessionOptions): Promise<Sessions> {
  const energy =
    moments === undefined ? squared(weight.values) : (await runtimeNormOnData(weight, moments, options)) ** 2;
  const stepper = await openSession(stepModel(weight, moments), options);
  const turner = await openSession(turnModel(weight.out), options).catch(async (error: unknown) => {
    await stepper.dispose();
    throw error;
  });
  return {
    energy,
    async step(near) {
      const found = await stepper.run(new Map([["near", near]]));
      return { back: found.get("back") as Tensor<"float32">, ritz: found.get("ritz") as Tensor<"float64"> };
    },
    async turn(r, x) {
      const feeds = new Map<string, Tensor>([
        ["r", r],
        ["x", x],
      ]);
      const found = await turner.run(feeds);
      return { turned: found.get("turned") as Tensor<"float32">, gram: found.get("gram") as Tensor<"float64"> };
    },
    async dispose() {
      await stepper.dispose();
      await turner.dispose();
    },
  };
}

/** near [l, out] -> back [l, out] = near W C W^T and ritz [l, l] = near back^T, the latter in float64. */
function stepModel({ out, into, values }: Weight, moments: Matrix | undefined): Model {
  const g = graphBuilder({ name: "step", opset });
  const near = g.input("near", "float32", ["l", out]);
  const w = g.initializer("w", tensor("float32", [out, into], values));
  const far = g.op("MatMul", [near, w]);
  const weighed = moments === undefined ? far : g.op("MatMul", [far, g.initializer("c", plainMoments(moments))]);
  const back = g.op("Gemm", [weighed, w], { transB: 1 }, { output: "back" });
  const ritz = g.op("MatMul", [wide(g, near), g.op("Transpose", [wide(g, back)])], {}, { output: "ritz" });
  g.output(back, "float32", ["l", out]);
  g.output(ritz, "float64", ["l", "l"]);
  return createModel(g.build(), { opset });
}

/** r [k, l] and x [l, out] -> turned [k, out] = r x and gram [k, k] = turned turned^T. */
function turnModel(out: number): Model {
  const g = graphBuilder({ name: "turn", opset });
  const product = g.op("MatMul", [g.input("r", "float64", ["k", "l"]), wide(g, g.input("x", "float32", ["l", out]))]);
  const turned = g.op("Cast", [product], { to: dataTypes.float32 }, { output: "turned" });
  const again = wide(g, turned);
  const gram = g.op("MatMul", [again, g.op("Transpose", [again])], {}, { output: "gram" });
  g.output(turned, "float32", ["k", out]);
  g.output(gram, "float64", ["k", "k"]);
  return createModel(g.build(), { opset });
}

/** As float64. */
function wide(g: GraphBuilder, value: Value): Value {
  return g.op("Cast", [value], { to: dataTypes.float64 });
}

/** Passes of Cholesky QR: the first may be of a nearly singular matrix, the second makes good its rounding. */
const mostPasses = 4;
const roundingOfFloats = 1e-5;

/** Orthonormal rows [l, out] with the span of `rows`. */
async function orthonormal(rows: Tensor<"float32">, { turn }: Sessions): Promise<Tensor<"float32">> {
  const l = rows.dims[0]!;
  let { turned, gram } = await turn(tensor("float64", [l, l], identity(l)), rows);
  for (let pass = 0; pass < mostPasses && farFromIdentity(gram.data, l); pass++) {
    ({ turned, gram } = await turn(tensor("float64", [l, l], inverseCholesky(gram.data, l)), turned));
  }
  return turned;
}

function farFromIdentity(gram: Float64Array, l: number): boolean {
  return gram.some((value, at) => Math.abs(value - (at % (l + 1) === 0 ? 1 : 0)) > roundingOfFloats);
}

/** L^-1 with L L^T the Gram matrix, its diagonal raised where rounding has made it singular. */
function inverseCholesky(gram: Float64Array, l: number): Float64Array {
  const shift = (trace(gram, l) / l) * l * 1e-15;
  const factor = new Float64Array(l * l);
  const inverse = new Float64Array(l * l);
  for (let i = 0; i < l; i++) {
    const row = factor.subarray(i * l, i * l + i + 1);
    for (let j = 0; j < i; j++) {
      const rest = gram[i * l + j]! - dot(row.subarray(0, j), factor.subarray(j * l, j * l + j));
      row[j] = rest / factor[j * l + j]!;
    }
    const left = gram[i * l + i]! - dot(row.subarray(0, i), row.subarray(0, i));
    row[i] = Math.sqrt(Math.max(left, shift));
    // Row i of L^-1 from those before it.
    const own = inverse.subarray(i * l, i * l + i + 1);
    own[i] = 1;
    for (let j = 0; j < i; j++) {
      const factorOf = -row[j]!;
      for (let k = 0; k <= j; k++) own[k] = own[k]! + factorOf * inverse[j * l + k]!;
    }
    for (let k = 0; k <= i; k++) own[k] = own[k]! / row[i]!;
  }
  return inverse;
}

function identity(l: number): Float64Array {
  return Float64Array.from({ length: l * l }, (_, at) => (at % (l + 1) === 0 ? 1 : 0));
}

function plainMoments({ rows, data }: Matrix): Tensor<"float32"> {
  return tensor("float32", [rows, rows], Float32Array.from(data));
}

function trace(square: Float64Array, l: number): number {
  let total = 0;
  for (let i = 0; i < l; i++) total += square[i * l + i]!;
  return total;
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}

function squared(values: Float32Array): number {
  return values.reduce((total, value) => total + value * value, 0);
}
