// Sessions: a model loaded into ONNX Runtime, run with tensors by name. `bind` is for loops: inputs and outputs are fixed
// buffers, so that a step allocates nothing that the one before had already.
import { LowrankError } from "../errors.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import { elementCount, type Tensor, type TensorType } from "../tensor.ts";
import { type InferenceSession, loadOrt, type Ort, type OrtTensor } from "./ort.ts";

/** Where a model runs. `wasm` and `webgpu` are for browsers; `webgpu` and `cuda` also run in Node.js where there is a GPU. */
export type Device = "cpu" | "wasm" | "webgpu" | "cuda";

export const devices: readonly Device[] = ["cpu", "wasm", "webgpu", "cuda"];

export interface SessionOptions {
  /** Default: cpu in Node.js, wasm elsewhere. */
  readonly device?: Device;
  /** Threads of one operator; default: what the runtime takes (one for each physical core). */
  readonly threads?: number;
}

export type Tensors = ReadonlyMap<string, Tensor>;

/** A loaded model. */
export interface Session {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Runs once. `fetches` names the outputs to compute (default all). Throws LowrankError "runtime" or "data". */
  run(feeds: Tensors, fetches?: readonly string[]): Promise<Map<string, Tensor>>;
  /** A run that is repeated over the same buffers: inputs are read from, outputs written to, the given tensors. */
  bind(feeds: Tensors, into: Tensors): BoundRun;
  /** Frees the session; it cannot run any more. */
  dispose(): Promise<void>;
}

/** A repeated run; see `Session.bind`. */
export interface BoundRun {
  /** Replaces one input's buffer. Given the buffer that it has already, this does nothing. */
  feed(name: string, value: Tensor): void;
  /** Runs, with outputs in the buffers that were bound. */
  run(): Promise<void>;
}

/**
 * Loads a model.
 *
 * @throws LowrankError "runtime" when ONNX Runtime is missing, refuses the model, or lacks the device.
 */
export async function openSession(model: Model | Uint8Array, options: SessionOptions = {}): Promise<Session> {
  const ort = await loadOrt();
  const bytes = model instanceof Uint8Array ? model : writeModel(model);
  try {
    const session = await ort.InferenceSession.create(bytes, sessionOptions(ort, options));
    return new OrtSession(ort, session);
  } catch (cause) {
    throw runtimeError(`the runtime refused the model (device ${options.device ?? "default"})`, cause);
  }
}

function sessionOptions(ort: Ort, { device, threads }: SessionOptions): InferenceSession.SessionOptions {
  const isWeb = ort.env.versions.node === undefined;
  if (isWeb && threads !== undefined && ort.env.wasm) ort.env.wasm.numThreads = threads;
  return {
    executionProviders: [device ?? (isWeb ? "wasm" : "cpu")],
    graphOptimizationLevel: "all",
    executionMode: "sequential",
    logSeverityLevel: 3,
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    // Gradients that die out become denormals, which cost a hundred times an ordinary operation.
    extra: { session: { set_denormal_as_zero: "1" } },
  };
}

function runtimeError(what: string, cause: unknown): LowrankError {
  return new LowrankError("runtime", `${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
}

class OrtSession implements Session {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly #ort: Ort;
  readonly #session: InferenceSession;

  constructor(ort: Ort, session: InferenceSession) {
    this.#ort = ort;
    this.#session = session;
    this.inputs = session.inputNames;
    this.outputs = session.outputNames;
  }

  async run(feeds: Tensors, fetches: readonly string[] = this.outputs): Promise<Map<string, Tensor>> {
    this.#checkFeeds(feeds);
    const given = Object.fromEntries(this.inputs.map((name) => [name, toOrt(this.#ort, feeds.get(name)!)]));
    const results = await this.#guard(() => this.#session.run(given, [...fetches]));
    return new Map(fetches.map((name) => [name, fromOrt(name, results[name]!)]));
  }

  bind(feeds: Tensors, into: Tensors): BoundRun {
    this.#checkFeeds(feeds);
    const sources = new Map(this.inputs.map((name) => [name, feeds.get(name)!]));
    const given: Record<string, OrtTensor> = {};
    for (const [name, value] of sources) given[name] = toOrt(this.#ort, value);
    const fetched: Record<string, OrtTensor> = {};
    for (const [name, value] of into) fetched[name] = toOrt(this.#ort, value);
    return {
      feed: (name, value) => {
        const before = sources.get(name);
        if (before === undefined) throw new Error(`internal: the session has no input ${name}`);
        if (before.data === value.data && sameDims(before.dims, value.dims)) return;
        sources.set(name, value);
        given[name] = toOrt(this.#ort, value);
      },
      run: async () => {
        await this.#guard(() => this.#session.run(given, fetched));
      },
    };
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }

  #checkFeeds(feeds: Tensors): void {
    const missing = this.inputs.filter((name) => !feeds.has(name));
    if (missing.length === 0) return;
    throw new LowrankError(
      "data",
      `batch: the model also wants ${missing.join(", ")}; got ${[...feeds.keys()].join(", ")}`,
    );
  }

  async #guard<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (cause) {
      throw runtimeError("the run failed", cause);
    }
  }
}

function sameDims(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}

function toOrt(ort: Ort, value: Tensor): OrtTensor {
  if (elementCount(value.dims) !== value.data.length) {
    throw new Error(`internal: ${value.data.length} values for dims [${value.dims}]`);
  }
  return new ort.Tensor(value.type as "float32", value.data as Float32Array, value.dims as number[]);
}

function fromOrt(name: string, value: OrtTensor): Tensor {
  if (value.type === "string" || value.type === "int4" || value.type === "uint4") {
    throw new LowrankError("runtime", `output ${name}: expected numbers, got ${value.type}`);
  }
  return { type: value.type as TensorType, dims: value.dims, data: value.data } as Tensor;
}
