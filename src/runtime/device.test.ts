import { afterEach, describe, expect, it, vi } from "vitest";
import { chooseDevice, type Device, missingDevice, quietly } from "./device.ts";
import type { Ort } from "./ort.ts";
import { checkDevice } from "./session.ts";
import { ortOptions } from "./session-options.ts";

/** A runtime whose devices take so many milliseconds for a run (of a first run: `first`), or are not there. */
function runtime(
  times: Partial<Record<Device, number>>,
  { web = false, first = {} as Partial<Record<Device, number>> } = {},
): Ort {
  let clock = 0;
  vi.spyOn(performance, "now").mockImplementation(() => clock);
  const create = async (_: Uint8Array, options: { executionProviders?: readonly unknown[] } = {}) => {
    const device = options.executionProviders?.[0] as Device;
    const time = times[device];
    if (time === undefined) throw new Error(`no ${device}`);
    let runs = 0;
    return {
      run: async () => {
        clock += runs++ === 0 ? (first[device] ?? time) : time;
        return {};
      },
      release: async () => {},
    };
  };
  const Tensor = class {};
  return {
    InferenceSession: { create },
    Tensor,
    env: { versions: { common: "1", ...(web ? {} : { node: "1" }) }, logLevel: "warning" },
  } as unknown as Ort;
}

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

describe("chooseDevice", () => {
  it("takes CUDA where a session opens on it", async () => {
    expect(await chooseDevice(runtime({ cuda: 1, webgpu: 1, cpu: 9 }))).toEqual({
      device: "cuda",
      reason: "the runtime has CUDA, and a GPU answered",
    });
  });

  it("takes WebGPU where its product is not that of a driver in software", async () => {
    expect(await chooseDevice(runtime({ webgpu: 0.5, cpu: 1 }))).toEqual({
      device: "webgpu",
      reason: "the runtime has no CUDA; a product of matrices takes WebGPU 0.5 ms, cpu 1.0 ms",
    });
    expect((await chooseDevice(runtime({ webgpu: 4, cpu: 1 }))).device).toBe("webgpu");
    expect(await chooseDevice(runtime({ webgpu: 250, cpu: 1 }))).toEqual({
      device: "cpu",
      reason:
        "the runtime has no CUDA; WebGPU's adapter is no GPU or a slow one: a product of matrices takes WebGPU 250 ms, cpu 1.0 ms",
    });
  });

  it("runs a driver in software once only", async () => {
    const ort = runtime({ webgpu: 250, cpu: 1 }, { first: { webgpu: 4000 } });
    expect((await chooseDevice(ort)).reason).toMatch(/WebGPU 4000 ms/);
  });

  it("takes the processor where there is nothing else", async () => {
    expect(await chooseDevice(runtime({ cpu: 1 }))).toEqual({
      device: "cpu",
      reason: "the runtime has no CUDA; WebGPU found no GPU",
    });
  });

  it("finds out once", async () => {
    const ort = runtime({ cpu: 1 });
    expect(await chooseDevice(ort)).toBe(await chooseDevice(ort));
  });

  it.each([
    ["no WebGPU", undefined, { device: "wasm", reason: "this browser or page has no WebGPU" }],
    ["no adapter", null, { device: "wasm", reason: "WebGPU found no GPU" }],
    [
      "one in software",
      { info: { isFallbackAdapter: true } },
      { device: "wasm", reason: "WebGPU's adapter is no GPU" },
    ],
    ["a GPU", { info: {} }, { device: "webgpu", reason: "a product of matrices takes WebGPU 0.2 ms, wasm 3.0 ms" }],
  ])("in a browser with %s", async (_, adapter, expected) => {
    const gpu = adapter === undefined ? {} : { gpu: { requestAdapter: async () => adapter } };
    vi.stubGlobal("navigator", gpu);
    expect(await chooseDevice(runtime({ webgpu: 0.2, wasm: 3 }, { web: true }))).toEqual(expected);
  });
});

describe("quietly", () => {
  it("puts the level of logging back, whatever happens", async () => {
    const { env } = runtime({});
    const failing = quietly({ env }, async () => {
      expect(env.logLevel).toBe("fatal");
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(env.logLevel).toBe("warning");
  });
});

describe("missingDevice", () => {
  const [node, web] = [runtime({}), runtime({}, { web: true })];
  const said = (ort: Ort, device: Device, message: string) => missingDevice(ort, device, new Error(message))?.message;

  it("says what to install or set", () => {
    const adapter =
      "webgpu_context.cc:136 Initialize() status == Success was false. Failed to get a WebGPU adapter: No supported adapters\n";
    expect(said(node, "webgpu", adapter)).toMatch(
      /^device webgpu: no GPU adapter was found; Vulkan was tried on Linux.*VK_DRIVER_FILES.*\(ONNX Runtime: Failed to get a WebGPU adapter: No supported adapters\)$/,
    );
    expect(said(node, "cuda", "OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library")).toMatch(
      /^device cuda: the runtime has no CUDA provider, or CUDA and cuDNN are missing/,
    );
    expect(said(node, "wasm", "no available backend found. ERR: [wasm] backend not found.")).toMatch(
      /in Node.js use cpu/,
    );
    expect(said(web, "cuda", "no available backend found. ERR: [cuda] backend not found.")).toMatch(
      /browsers have none/,
    );
    expect(said(web, "webgpu", "WebGPU is not supported in current environment")).toMatch(/secure page/);
  });

  it("leaves other failures alone", () => {
    expect(
      missingDevice(node, "webgpu", new Error("Fatal error: NoSuchOperator is not a registered function")),
    ).toBeNull();
    expect(missingDevice(node, "cpu", new Error("no adapter"))).toBeNull();
    expect(missingDevice(node, undefined, "text")).toBeNull();
  });
});

describe("checkDevice", () => {
  it("says where models will run", async () => {
    expect(await checkDevice()).toEqual({ device: "cpu", reason: "the default" });
    expect(await checkDevice({ device: "cpu", threads: 1 })).toEqual({ device: "cpu", reason: "as asked" });
  });
});

describe("what a session is asked for", () => {
  const rest = {
    threads: undefined,
    isLean: false,
    isInteger: false,
    takesTurns: false,
    folder: undefined,
    onCpu: [] as readonly string[],
  };
  const providers = (ort: Ort, device: Device | undefined, onCpu: readonly string[] = []) =>
    ortOptions(ort, { ...rest, device, onCpu }).executionProviders;

  it("is the device's provider, with the nodes that WebGPU must not take", () => {
    const [node, web] = [runtime({}), runtime({}, { web: true })];
    expect(providers(node, "cuda", ["a"])).toEqual(["cuda"]);
    expect(providers(node, "webgpu")).toEqual(["webgpu"]);
    expect(providers(node, "webgpu", ["a", "b"])).toEqual([{ name: "webgpu", forceCpuNodeNames: ["a", "b"] }]);
    expect(providers(web, "webgpu")).toEqual(["webgpu"]);
    expect([providers(node, undefined), providers(web, undefined)]).toEqual([["cpu"], ["wasm"]]);
  });

  it("is so many threads, which all sessions of a page share", () => {
    const [node, web] = [runtime({}), runtime({}, { web: true })];
    expect(ortOptions(node, { ...rest, device: "cpu", threads: 3 })).toMatchObject({ intraOpNumThreads: 3 });
    expect(ortOptions(node, { ...rest, device: "cpu" })).not.toHaveProperty("intraOpNumThreads");
    const env = { ...web.env, wasm: { numThreads: 0 } };
    ortOptions({ env }, { ...rest, device: "wasm", threads: 2 });
    expect(env.wasm.numThreads).toBe(2);
  });
});
