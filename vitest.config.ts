// Unit tests lie beside the code; journeys through the built package (dist/, from `npm run build`) lie in test/.
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.{ts,js}"],
    // Processes, not threads: onnxruntime-node is native code with threads of its own.
    pool: "forks",
    env: { ORT_DISABLE_TELEMETRY: "1" },
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 240_000,
    reporters: ["default"],
    server: {
      // The built package is loaded by Node itself, as its users load it.
      deps: { external: [/\/dist\/.*\.js$/] },
    },
  },
});
