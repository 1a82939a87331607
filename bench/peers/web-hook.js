// node --import ./bench/peers/web-hook.js: the library takes onnxruntime-web (WebAssembly) in Node.js too.
import { register } from "node:module";

const hook = `export const resolve = (name, context, next) => next(name === "#ort" ? "onnxruntime-web" : name, context);`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
