// What a page that uses the library downloads, the runtime aside.
const withoutRuntime = {
  path: "dist/index.js",
  modifyEsbuildConfig: (config) => ({ ...config, external: ["#ort", "onnxruntime-*"] }),
};

export default [
  { name: "everything, without ONNX Runtime", limit: "140 kB", ...withoutRuntime },
  {
    name: "a page that runs adapters",
    import: "{ readModel, attachLora, readAdapter, createSession }",
    limit: "60 kB",
    ...withoutRuntime,
  },
  {
    name: "a page that trains adapters",
    import: "{ readModel, attachLora, train, crossEntropy, adamw, writeAdapter, createSession }",
    limit: "95 kB",
    ...withoutRuntime,
  },
];
