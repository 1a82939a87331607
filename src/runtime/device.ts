// Devices: their names, what `auto` stands for on this machine, and what to do where one is missing.
import { LowrankError } from "../errors.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { writeModel } from "../onnx/write.ts";
import { tensor } from "../tensor.ts";
import type { Ort } from "./ort.ts";

/** Where a model runs. `wasm` is a browser's processor; `webgpu` and `cuda` also run in Node.js where there is a GPU. */
export type Device = "cpu" | "wasm" | "webgpu" | "cuda";

export const devices: readonly Device[] = ["cpu", "wasm", "webgpu", "cuda"];

/** A device, or `auto`: the fastest that is there (see `chooseDevice`). */
export type DeviceChoice = Device | "auto";

export const deviceChoices: readonly DeviceChoice[] = [...devices, "auto"];

/** What `auto` stands for, and why. */
export interface ChosenDevice {
  readonly device: Device;
  /** For people: what was tried, and what came of it. */
  readonly reason: string;
}

/** Whether this is ONNX Runtime for browsers. */
export function isWebRuntime({ env }: Pick<Ort, "env">): boolean {
  return env.versions.node === undefined;
}

/** Where models run when nothing is said. */
export function defaultDevice(ort: Pick<Ort, "env">): Device {
  return isWebRuntime(ort) ? "wasm" : "cpu";
}

/** A GPU whose product takes so many times as long as the processor's is a driver in software. */
const softwareFactor = 4;
/** A first run, which compiles a shader, that takes longer than this (ms) is a software driver's too. */
const longestFirstRun = 1500;

const choices = new WeakMap<object, Promise<ChosenDevice>>();

/**
 * What `auto` stands for, found out once: CUDA where the runtime has it and a GPU answers, else WebGPU where there is a GPU and
 * a product of two matrices shows that it is none in software, else the processor.
 */
export function chooseDevice(ort: Ort): Promise<ChosenDevice> {
  const chosen = choices.get(ort) ?? choose(ort);
  choices.set(ort, chosen);
  return chosen;
}

async function choose(ort: Ort): Promise<ChosenDevice> {
  const processor = defaultDevice(ort);
  const cuda = isWebRuntime(ort) ? null : await timeOf(ort, "cuda");
  if (typeof cuda === "number") return { device: "cuda", reason: "the runtime has CUDA, and a GPU answered" };
  const without = cuda === null ? "" : "the runtime has no CUDA; ";
  const adapter = isWebRuntime(ort) ? await browserAdapter() : null;
  if (typeof adapter === "string") return { device: processor, reason: `${without}${adapter}` };
  const webgpu = await timeOf(ort, "webgpu");
  if (typeof webgpu !== "number") return { device: processor, reason: `${without}WebGPU found no GPU` };
  const own = await timeOf(ort, processor);
  const times = `a product of matrices takes WebGPU ${milliseconds(webgpu)}, ${processor} ${milliseconds(own as number)}`;
  if (typeof own === "number" && webgpu > softwareFactor * own) {
    return { device: processor, reason: `${without}WebGPU's adapter is no GPU or a slow one: ${times}` };
  }
  return { device: "webgpu", reason: `${without}${times}` };
}

function milliseconds(time: number): string {
  return `${time.toFixed(time < 10 ? 1 : 0)} ms`;
}

/**
 * Milliseconds of a product of [128, 512] and [512, 512] on a device: the best of three runs after a first one; or of the
 * first when that takes very long. The error where there is no such device.
 */
async function timeOf(ort: Ort, device: Device): Promise<number | Error> {
  const [rows, size] = [128, 512];
  const g = graphBuilder({ opset: 17 });
  const x = g.input("x", "float32", [rows, size]);
  const w = g.initializer("w", tensor("float32", [size, size], new Float32Array(size * size).fill(0.01)));
  g.output(g.op("ReduceSum", [g.op("MatMul", [x, w])], { keepdims: 0 }, { output: "y" }), "float32", []);
  const model = writeModel(createModel(g.build(), { opset: 17 }));
  return quietly(ort, async () => {
    const session = await ort.InferenceSession.create(model, { executionProviders: [device], logSeverityLevel: 4 });
    try {
      const feeds = { x: new ort.Tensor("float32", new Float32Array(rows * size).fill(1), [rows, size]) };
      const run = async (): Promise<number> => {
        const begun = performance.now();
        await session.run(feeds);
        return performance.now() - begun;
      };
      const first = await run();
      if (first > longestFirstRun) return first;
      return Math.min(await run(), await run(), await run());
    } finally {
      await session.release();
    }
  }).catch((reason: unknown) => (reason instanceof Error ? reason : new Error(String(reason))));
}

/**
 * Runs something that may fail without the runtime's own lines on stderr: its libraries are loaded by an environment whose
 * level of logging is set by the first session of a process.
 */
export async function quietly<T>({ env }: Pick<Ort, "env">, run: () => Promise<T>): Promise<T> {
  const level = env.logLevel;
  env.logLevel = "fatal";
  try {
    return await run();
  } finally {
    if (level !== undefined) env.logLevel = level;
  }
}

interface GpuAdapter {
  readonly isFallbackAdapter?: boolean;
  readonly info?: { readonly isFallbackAdapter?: boolean; readonly architecture?: string };
}

/** What a browser says of its GPU: the adapter, or why there is none that is worth using. */
async function browserAdapter(): Promise<GpuAdapter | string> {
  const { navigator } = globalThis as {
    navigator?: { gpu?: { requestAdapter(): Promise<GpuAdapter | null> } };
  };
  if (navigator?.gpu === undefined) return "this browser or page has no WebGPU";
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (adapter === null) return "WebGPU found no GPU";
  const isSoftware = adapter.info?.isFallbackAdapter === true || adapter.info?.architecture === "swiftshader";
  return isSoftware || adapter.isFallbackAdapter === true ? "WebGPU's adapter is no GPU" : adapter;
}

/** How the runtime says that it has no CUDA, or CUDA no GPU. */
const noCuda =
  /load shared library|backend not found|no CUDA-capable device|CUDA driver version|not enabled in this build/;

/** What a session's failure means where it is the device that is missing; null for any other failure. */
export function missingDevice(ort: Pick<Ort, "env">, device: Device | undefined, cause: unknown): LowrankError | null {
  const message = cause instanceof Error ? cause.message : String(cause);
  const [firstLine = ""] = message.split("\n");
  const said = (text: string): LowrankError =>
    new LowrankError("runtime", `device ${device}: ${text} (ONNX Runtime: ${shortened(firstLine)})`, { cause });
  if (device === "wasm" && !isWebRuntime(ort) && /backend/.test(message)) {
    return said("it is for browsers; in Node.js use cpu");
  }
  if (device === "cuda" && noCuda.test(message)) {
    if (isWebRuntime(ort)) return said("browsers have none; use webgpu, wasm or auto");
    return said(
      "the runtime has no CUDA provider, or CUDA and cuDNN are missing. onnxruntime-node brings the provider on Linux x64 when " +
        "it is installed without ONNXRUNTIME_NODE_INSTALL=skip; nvidia-smi says whether a GPU is there; or use webgpu, cpu or auto",
    );
  }
  if (device !== "webgpu" || !/adapter|WebGPU is not supported|backend not found|requestAdapter/i.test(message))
    return null;
  if (isWebRuntime(ort)) {
    return said(
      "the browser gives no GPU adapter. WebGPU needs a secure page (https or localhost) and a browser that has it turned on " +
        "(chrome://gpu says so); or use wasm or auto",
    );
  }
  return said(
    "no GPU adapter was found; Vulkan was tried on Linux, Direct3D 12 on Windows, Metal on macOS. Install the GPU's driver " +
      "(and libvulkan1 on Debian and Ubuntu); for tests without a GPU name a software driver in VK_DRIVER_FILES " +
      "(docs/devices.md); or use cpu or auto",
  );
}

function shortened(line: string): string {
  // Assertions begin with the file, line and function that made them.
  const text = line.replace(/^.*? was false\. /, "").trim();
  return text.length > 200 ? `${text.slice(0, 199)}…` : text;
}
