// Sessions: a model loaded into ONNX Runtime, run with tensors by name. `bind` is for loops: inputs and outputs are fixed
// buffers, so that a step allocates nothing that the one before had already.
import { LowrankError, throwFaults } from "../errors.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model, ValueInfo } from "../onnx/model.ts";
import { type ModelParts, writeModelParts } from "../onnx/write.ts";
import { elementCount, type Tensor, type TensorType } from "../tensor.ts";
import {
  type ChosenDevice,
  chooseDevice,
  type Device,
  type DeviceChoice,
  defaultDevice,
  isWebRuntime,
  missingDevice,
  quietly,
} from "./device.ts";
import { isGuardError, leavesOutputsInPlace, withGuard } from "./in-place.ts";
import { isLarge, withoutTransposes } from "./lean.ts";
import { type InferenceSession, loadOrt, type Ort, type OrtTensor } from "./ort.ts";
import { withPlainWeights } from "./plain-weights.ts";
import { withRotaryTables } from "./rotary-tables.ts";
import { ortOptions } from "./session-options.ts";
import { hasIntegerProducts, withOwnSignedWeights } from "./signed-weights.ts";
import { keptOnCpu } from "./webgpu.ts";

export { type ChosenDevice, type Device, type DeviceChoice, deviceChoices, devices } from "./device.ts";

export interface SessionOptions {
  /** Default: cpu in Node.js, wasm elsewhere. `auto`: see `checkDevice`. */
  readonly device?: DeviceChoice;
  /** Threads of one operator; default: what the runtime takes (one for each physical core). */
  readonly threads?: number;
}

export interface OpenOptions extends SessionOptions {
  /** The session will be bound: opens it so that outputs are not copied once more (see in-place.ts). */
  readonly forBinding?: boolean;
  /** Another session runs between this one's runs: its threads give way at once instead of waiting for the next run. */
  readonly takesTurns?: boolean;
}

export type Tensors = ReadonlyMap<string, Tensor>;

/** A loaded model. */
export interface Session {
  /** Where it runs. */
  readonly device: Device;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Runs once. `fetches` names the outputs to compute (default all). Throws LowrankError "runtime" or "data". */
  run(feeds: Tensors, fetches?: readonly string[]): Promise<Map<string, Tensor>>;
  /**
   * A run that is repeated over the same buffers: inputs are read from, outputs written to, the given tensors. Throws
   * LowrankError "data".
   */
  bind(feeds: Tensors, into: Tensors): BoundRun;
  /** Frees the session; it cannot run any more. */
  dispose(): Promise<void>;
}

/** A repeated run; see `Session.bind`. */
export interface BoundRun {
  /** Replaces one input's buffer. Given the buffer that it has already, this does nothing. Throws LowrankError "data". */
  feed(name: string, value: Tensor): void;
  /** Runs, with outputs in the buffers that were bound. */
  run(): Promise<void>;
}

/**
 * Loads a model.
 *
 * @throws LowrankError "runtime" when ONNX Runtime is missing, refuses the model, or lacks the device.
 */
export async function openSession(model: Model | Uint8Array, options: OpenOptions = {}): Promise<Session> {
  const ort = await loadOrt();
  const { threads, forBinding = false, takesTurns = false } = options;
  const device = options.device === "auto" ? (await chooseDevice(ort)).device : options.device;
  const {
    bytes,
    data,
    guard,
    folder,
    isLean = false,
    isInteger = false,
    onCpu = [],
  } = await prepare(ort, model, { forBinding, device });
  try {
    const externalData = Array.from(data, ([path, values]) => ({ path, data: values }));
    const asked = ortOptions(ort, { device, threads, takesTurns, isLean, isInteger, folder, onCpu });
    const create = (): Promise<InferenceSession> => ort.InferenceSession.create(bytes, { ...asked, externalData });
    const session = await (device === "cuda" ? quietly(ort, create) : create());
    weightsOf.set(session, data);
    const declared = model instanceof Uint8Array ? [] : model.graph.inputs;
    return new OrtSession(ort, session, { device: device ?? defaultDevice(ort), declared, guard });
  } catch (cause) {
    const missing = missingDevice(ort, device, cause);
    throw missing ?? runtimeError(`the runtime refused the model (device ${device ?? "default"})`, cause);
  }
}

/** A model as the runtime gets it. */
interface Prepared extends ModelParts {
  readonly guard?: string;
  /** The model is large: nothing of it is to be held twice (see lean.ts). */
  readonly isLean?: boolean;
  /** It multiplies 8-bit activations (see signed-weights.ts). */
  readonly isInteger?: boolean;
  /** Nodes that are not for WebGPU. */
  readonly onCpu?: readonly string[];
}

async function prepare(
  ort: Ort,
  given: Model | Uint8Array,
  { forBinding, device }: { readonly forBinding: boolean; readonly device: Device | undefined },
): Promise<Prepared> {
  if (given instanceof Uint8Array) return { bytes: given, data: new Map(), folder: undefined };
  // Products in integers need the nodes that say how.
  const model = hasIntegerProducts(given) ? given : withPlainWeights(given);
  if (device === "webgpu") {
    const shared = keptOnCpu(model);
    return { ...(await bindable(ort, shared.model, forBinding)), onCpu: shared.onCpu };
  }
  if (!forBinding || device === "cuda") return bindable(ort, model, forBinding);
  const isLean = isLarge(model);
  return { ...(await bindable(ort, isLean ? withoutTransposes(model) : model, true)), isLean };
}

/** The model as bytes, guarded where it is going to be bound and that saves a copy. */
async function bindable(ort: Ort, given: Model, forBinding: boolean): Promise<Prepared> {
  const isInteger = hasIntegerProducts(given);
  const model = withRotaryTables(isInteger ? withOwnSignedWeights(given) : given);
  if (!forBinding || !(await leavesOutputsInPlace(ort))) return { ...writeModelParts(model), isInteger };
  const guarded = withGuard(model);
  return { ...writeModelParts(guarded.model), guard: guarded.guard, isInteger };
}

/** The weights' memory, which the runtime may go on reading from: kept for as long as the session. */
const weightsOf = new WeakMap<InferenceSession, ReadonlyMap<string, Uint8Array>>();

/**
 * Makes sure, before the work begins, that the runtime is there and has the device. Says which it is, and for `auto` why: CUDA
 * where the runtime has it, else WebGPU where a GPU is found that is none in software, else the processor.
 *
 * @throws LowrankError "runtime" that says what is missing and how it can be had.
 * @example const { device, reason } = await checkDevice({ device: "auto" });
 */
export async function checkDevice(options: SessionOptions = {}): Promise<ChosenDevice> {
  const ort = await loadOrt();
  if (options.device === "auto") return chooseDevice(ort);
  const g = graphBuilder({ opset: 17 });
  g.output(g.op("Identity", [g.input("x", "float32", [1])]), "float32", [1]);
  const session = await openSession(createModel(g.build(), { opset: 17 }), options);
  await session.dispose();
  const device = options.device ?? defaultDevice(ort);
  return { device, reason: options.device === undefined ? "the default" : "as asked" };
}

/** What is said of a program in float16 on a GPU without. */
const noFloat16 = /requires f16 but the device does not support it/;

function runtimeError(what: string, cause: unknown): LowrankError {
  if (cause instanceof Error && noFloat16.test(cause.message)) {
    return new LowrankError("runtime", `${what}: the GPU has no float16 (shader-f16); train in float32`, { cause });
  }
  return new LowrankError("runtime", `${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
}

interface OpenedParts {
  readonly device: Device;
  readonly declared: readonly ValueInfo[];
  readonly guard: string | undefined;
}

class OrtSession implements Session {
  readonly device: Device;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly #ort: Ort;
  readonly #session: InferenceSession;
  readonly #known: ReadonlySet<string>;
  /** The output in front that ends a bound run before outputs are copied. */
  readonly #guard: string | undefined;
  /** onnxruntime-node fills pre-allocated outputs; onnxruntime-web leaves those on the CPU as they are (its issue 25786). */
  readonly #writesInPlace: boolean;
  /** What the model says of its inputs, as far as it is known. */
  readonly #declared: ReadonlyMap<string, ValueInfo>;

  constructor(ort: Ort, session: InferenceSession, { device, declared, guard }: OpenedParts) {
    this.device = device;
    this.#ort = ort;
    this.#guard = guard;
    this.#session = session;
    this.#writesInPlace = !isWebRuntime(ort);
    this.#declared = new Map(declared.map((info) => [info.name, info]));
    this.inputs = session.inputNames;
    this.#known = new Set(session.inputNames);
    this.outputs = session.outputNames.filter((name) => name !== guard);
  }

  async run(feeds: Tensors, fetches: readonly string[] = this.outputs): Promise<Map<string, Tensor>> {
    this.#check(feeds, this.inputs);
    const given = Object.fromEntries(this.inputs.map((name) => [name, toOrt(this.#ort, name, feeds.get(name)!)]));
    const results = await this.#attempt(() => this.#session.run(given, [...fetches]));
    return new Map(fetches.map((name) => [name, fromOrt(name, results[name]!)]));
  }

  bind(feeds: Tensors, into: Tensors): BoundRun {
    this.#check(feeds, this.inputs);
    const sources = new Map(feeds);
    const given: Record<string, OrtTensor> = {};
    for (const [name, value] of sources) given[name] = toOrt(this.#ort, name, value);
    const fetched: Record<string, OrtTensor> = {};
    for (const [name, value] of into) fetched[name] = toOrt(this.#ort, name, value);
    return {
      feed: (name, value) => {
        const before = sources.get(name);
        if (before?.data === value.data && sameDims(before.dims, value.dims)) return;
        this.#check(new Map([[name, value]]), [name]);
        sources.set(name, value);
        given[name] = toOrt(this.#ort, name, value);
      },
      run: () => this.#runInto(given, fetched, into),
    };
  }

  async #runInto(given: Record<string, OrtTensor>, fetched: Record<string, OrtTensor>, into: Tensors): Promise<void> {
    if (this.#guard !== undefined) {
      const error = await this.#session.run(given, { [this.#guard]: null, ...fetched }).then(
        () => null,
        (reason) => reason,
      );
      if (error !== null && !isGuardError(error)) throw runtimeError("the run failed", error);
      return;
    }
    const results = await this.#attempt(() =>
      this.#session.run(given, this.#writesInPlace ? fetched : [...into.keys()]),
    );
    if (this.#writesInPlace) return;
    for (const [name, value] of into) (value.data as Float32Array).set(results[name]!.data as Float32Array);
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }

  /** Throws when one of `wanted` is missing, or anything is given that is no input or does not fit it. */
  #check(feeds: Tensors, wanted: readonly string[]): void {
    const faults = wanted.filter((name) => feeds.get(name) === undefined).map((name) => `input ${name}: missing`);
    for (const [name, value] of feeds) {
      if (value === undefined) continue;
      const fault = this.#known.has(name) ? misfit(value, this.#declared.get(name)) : "the model has no such input";
      if (fault !== null) faults.push(`input ${name}: ${fault}`);
    }
    throwFaults("data", "batch", faults);
  }

  async #attempt<T>(run: () => Promise<T>): Promise<T> {
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

/** Why a tensor cannot be given for an input; null when it can, as far as the model tells. */
function misfit({ type, dims, data }: Tensor, declared: ValueInfo | undefined): string | null {
  const got = `[${dims.join(", ")}]`;
  const count = elementCount(dims);
  if (count !== data.length) return `expected ${count} values for ${got}, got ${data.length}`;
  const { type: wantedType = type, shape = dims } = declared ?? {};
  const fits =
    shape.length === dims.length && shape.every((dim, axis) => typeof dim !== "number" || dim === dims[axis]);
  if (type === wantedType && fits) return null;
  return `expected ${wantedType} [${shape.map((dim) => dim ?? "?").join(", ")}], got ${type} ${got}`;
}

function toOrt(ort: Ort, name: string, value: Tensor): OrtTensor {
  try {
    return new ort.Tensor(value.type as "float32", value.data as Float32Array, value.dims as number[]);
  } catch (cause) {
    // An array of another kind than the type says.
    throw new LowrankError("data", `input ${name}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

function fromOrt(name: string, value: OrtTensor): Tensor {
  if (value.type === "string" || value.type === "int4" || value.type === "uint4") {
    throw new LowrankError("runtime", `output ${name}: expected numbers, got ${value.type}`);
  }
  return { type: value.type as TensorType, dims: value.dims, data: value.data } as Tensor;
}
