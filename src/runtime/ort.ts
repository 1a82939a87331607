// ONNX Runtime, loaded when it is first needed: onnxruntime-node in Node.js, onnxruntime-web elsewhere (package.json,
// "imports"). Only this room knows it.
import type { Env, InferenceSession, Tensor as OrtTensor, TensorConstructor } from "onnxruntime-common";
import { LowrankError } from "../errors.ts";

/** The part of ONNX Runtime's API that is used here. */
export interface Ort {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
  readonly env: {
    versions: { common: string; node?: string; web?: string };
    wasm?: { numThreads?: number };
    logLevel?: Env["logLevel"];
  };
}

export type { InferenceSession, OrtTensor };

let loading: Promise<Ort> | undefined;

/** The runtime. Throws LowrankError "runtime" that says how to install it when it is missing. */
export function loadOrt(): Promise<Ort> {
  loading ??= import("#ort").then(
    (module) => ((module as { default?: Ort }).default ?? module) as unknown as Ort,
    (cause) => {
      loading = undefined;
      throw missingRuntime(cause);
    },
  );
  return loading;
}

function missingRuntime(cause: unknown): LowrankError {
  const reason = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
  return new LowrankError(
    "runtime",
    `ONNX Runtime cannot be loaded (${reason}). In Node.js install it with \`npm install onnxruntime-node\`; where its install ` +
      "step cannot reach its download host, with `ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node` (that leaves out " +
      "CUDA only). In a browser install onnxruntime-web.",
    { cause },
  );
}
