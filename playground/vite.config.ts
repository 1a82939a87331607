// The page: preact, the built library by its name, and ONNX Runtime in the place of its `#ort`. Assets lie beside the page, so
// that it can be served from any folder.
import { fileURLToPath } from "node:url";
import { defineConfig, type UserConfig } from "vite";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

const resolve: UserConfig["resolve"] = {
  alias: [
    { find: /^lowrank$/, replacement: here("../dist/index.js") },
    { find: "#ort", replacement: here("src/runtime.ts") },
  ],
  // The runtime's JavaScript without its WebAssembly inside: that is fetched from beside the page.
  conditions: ["onnxruntime-web-use-extern-wasm", "browser", "module", "import", "default"],
};

const config: UserConfig = defineConfig({
  root: here("."),
  base: "./",
  publicDir: process.env.PLAYGROUND_ASSETS ?? false,
  resolve,
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    outDir: here("dist"),
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
  },
  worker: { format: "es" },
  logLevel: "warn",
});

export default config;
