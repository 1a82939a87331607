// ONNX Runtime for the browser, in the smallest build that does: WebAssembly alone (14 MB), or with WebGPU where the page asked
// for it (17 MB). The bundler puts this module in the place of the library's `#ort`; a worker's name says which build it wants.
import plainGlue from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import plainWasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

interface Runtime {
  readonly env: { readonly wasm: { wasmPaths?: unknown; numThreads?: number; proxy?: boolean } };
}

async function load(): Promise<Runtime> {
  if (self.name.includes("webgpu")) {
    const [ort, glue, wasm] = await Promise.all([
      import("onnxruntime-web/jspi"),
      import("onnxruntime-web/ort-wasm-simd-threaded.jspi.mjs?url"),
      import("onnxruntime-web/ort-wasm-simd-threaded.jspi.wasm?url"),
    ]);
    ort.env.wasm.wasmPaths = { mjs: absolute(glue.default), wasm: absolute(wasm.default) };
    return ort as unknown as Runtime;
  }
  const ort = await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmPaths = { mjs: absolute(plainGlue), wasm: absolute(plainWasm) };
  return ort as unknown as Runtime;
}

/** The glue is imported by its address, which is read from where the glue's importer is. */
function absolute(path: string): string {
  return new URL(path, self.location.href).href;
}

const runtime: Runtime = await load();
export default runtime;
