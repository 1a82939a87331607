// What a page that uses the library downloads, the runtime aside.
export default [
  {
    name: "browser entry, without ONNX Runtime",
    path: "dist/index.js",
    limit: "90 kB",
    modifyEsbuildConfig: (config) => ({ ...config, external: ["#ort", "onnxruntime-*"] }),
  },
];
