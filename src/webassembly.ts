// Small WebAssembly modules of our own (kernels/*.as.ts, as base64 in gen/). What is used of the interface is declared here, since
// TypeScript has its types in its library for browsers only.

interface WebAssemblyApi {
  readonly Memory: new (limits: Pages) => { readonly buffer: ArrayBuffer };
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: { env: { memory: object } }) => { readonly exports: object };
}

export const pageBytes = 65_536;

/** What 32-bit addresses reach: 4 GiB. */
export const mostPages = 65_536;

export interface Pages {
  readonly initial: number;
  readonly maximum: number;
}

/** A memory, and the functions that work in it. */
export interface Instance<Exports> {
  readonly exports: Exports;
  readonly buffer: ArrayBuffer;
}

/**
 * A module that is compiled once, when it is first used: they have 1 to 2 kB, so that doing it synchronously is allowed on a
 * browser's main thread too. What it returns makes an instance with a memory of its own, and throws where there is no WebAssembly
 * SIMD, a page's content security policy forbids it, or no such range of addresses is left.
 *
 * @example const { exports, buffer } = kernelModule<{ adam: Kernel }>(optimizerWasm)({ initial: 1, maximum: 1 });
 */
export function kernelModule<Exports>(base64: string): (pages: Pages) => Instance<Exports> {
  let compiled: object | undefined;
  return (pages) => {
    const wasm = (globalThis as { WebAssembly?: WebAssemblyApi }).WebAssembly;
    if (wasm === undefined) throw new Error("internal: no WebAssembly");
    compiled ??= new wasm.Module(Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0)));
    const memory = new wasm.Memory(pages);
    const { exports } = new wasm.Instance(compiled, { env: { memory } });
    return { exports: exports as Exports, buffer: memory.buffer };
  };
}
