// What ONNX Runtime is asked for when a session is made.
import { type Device, defaultDevice, isWebRuntime } from "./device.ts";
import type { InferenceSession, Ort } from "./ort.ts";

export interface Asked {
  readonly device: Device | undefined;
  readonly threads: number | undefined;
  /** Its threads are not to spin when a run has ended. */
  readonly takesTurns: boolean;
  /** The model is large: nothing of it is to be held twice (see lean.ts). */
  readonly isLean: boolean;
  /** The model multiplies 8-bit activations, which is to be exact on every processor (see signed-weights.ts). */
  readonly isInteger: boolean;
  /** Where the files of weights are that the model names, if it names any. */
  readonly folder: string | undefined;
  /** Nodes that WebGPU is not to take (see webgpu.ts). */
  readonly onCpu: readonly string[];
}

/** The session options for a device; sets the number of WebAssembly threads, which all sessions of a page share. */
export function ortOptions(
  ort: Pick<Ort, "env">,
  { device, threads, takesTurns, isLean, isInteger, folder, onCpu }: Asked,
): InferenceSession.SessionOptions {
  if (isWebRuntime(ort) && threads !== undefined && ort.env.wasm) ort.env.wasm.numThreads = threads;
  const provider = device ?? defaultDevice(ort);
  return {
    // What a GPU's provider has no kernel for, the runtime gives to the processor by itself.
    executionProviders: [
      provider === "webgpu" && onCpu.length > 0 ? { name: provider, forceCpuNodeNames: onCpu } : provider,
    ],
    graphOptimizationLevel: "all",
    executionMode: "sequential",
    // What goes wrong comes as an error; the runtime's own lines on stderr would only stand beside it.
    logSeverityLevel: 4,
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    // Gradients that die out become denormals, which cost a hundred times an ordinary operation.
    extra: {
      session: {
        set_denormal_as_zero: "1",
        // Products by dequantized weights stay in float32: by default activations are rounded to 8 bits there.
        qdq_matmulnbits_accuracy_level: "1",
        ...(isInteger && { x64quantprecision: "1" }),
        ...(takesTurns && { intra_op: { allow_spinning: "0" } }),
        ...(isLean && { disable_prepacking: "1" }),
        ...(folder !== undefined && { model_external_initializers_file_folder_path: folder }),
      },
    },
    // A planned layout of activations holds all of them at once, beside the arena that the first run has filled.
    ...(isLean && { enableMemPattern: false }),
  };
}
