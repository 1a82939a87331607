// lowrank itself on onnxruntime-web: what a browser runs, WebAssembly with threads, timed in Node.js.
import { availableParallelism } from "node:os";
import { lowrankVersion } from "../../dist/runs/environment.js";
import { lowrankContender } from "../lowrank.js";

export async function connect() {
  const threads = availableParallelism();
  const contender = lowrankContender(threads);
  return {
    version: `lowrank ${lowrankVersion()} on onnxruntime-web (WebAssembly), ${threads} threads`,
    prepare: async (benchCase) => {
      await contender.prepare(benchCase);
      return { run: (steps) => contender.run(benchCase, steps), close: async () => {} };
    },
  };
}
