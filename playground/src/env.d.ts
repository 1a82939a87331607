// Modules that only the bundler knows.
declare module "onnxruntime-web/wasm";
declare module "onnxruntime-web/jspi";
