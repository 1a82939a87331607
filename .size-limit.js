// What a page that uses the library downloads, the runtime aside.
const withoutRuntime = {
  path: "dist/index.js",
  modifyEsbuildConfig: (config) => ({ ...config, external: ["#ort", "onnxruntime-*"] }),
};

/** Built by check:package; names end in hashes. */
const playground = (...names) => names.map((name) => `playground/dist/${name}`);

export default [
  { name: "everything, without ONNX Runtime", limit: "140 kB", ...withoutRuntime },
  {
    name: "a page that runs adapters",
    import: "{ readModel, attachLora, readAdapter, createSession }",
    limit: "75 kB",
    ...withoutRuntime,
  },
  {
    name: "a page that trains adapters",
    import: "{ readModel, attachLora, train, crossEntropy, adamw, writeAdapter, createSession }",
    limit: "105 kB",
    ...withoutRuntime,
  },
  {
    name: "the playground until it reads, without the runtime's WebAssembly",
    path: playground(
      "index.html",
      "assets/index-*.{js,css}",
      "assets/{main,read,runner,runtime,turn,rolldown-runtime,ort.wasm.min}-*.js",
      "assets/ort-wasm-simd-threaded-*.mjs",
    ),
    esbuild: false,
    limit: "150 kB",
  },
];
