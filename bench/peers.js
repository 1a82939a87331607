// Other ways to train in JavaScript as contenders of the bench: lowrank on onnxruntime-web, jax-js, TensorFlow.js. Each runs in a
// process of its own (bench/peers/worker.js). The last two are installed apart, since nothing else needs them:
// npm ci --prefix bench/peers
import { fileURLToPath, pathToFileURL } from "node:url";
import { WorkerProcess } from "./worker-process.js";

const at = (name) => fileURLToPath(new URL(`./peers/${name}`, import.meta.url));
const PEERS = {
  web: ["--import", pathToFileURL(at("web-hook.js")).href],
  jax: [],
  tfjs: [],
};

/**
 * The peers that are installed.
 * @returns {Promise<{ contenders: import("./harness.js").Contender[], notes: string[] }>} notes say which are not
 */
export async function connectPeers() {
  const [contenders, notes] = [[], []];
  for (const [name, options] of Object.entries(PEERS)) {
    const worker = new WorkerProcess(name, process.execPath, [...options, at("worker.js"), name]);
    const hello = await worker.receive();
    if (hello.missing === undefined) contenders.push(contender(name, hello.version, worker));
    else {
      notes.push(`${name}: not measured (${hello.missing}); npm ci --prefix bench/peers installs it.`);
      await worker.close();
    }
  }
  return { contenders, notes };
}

/** @returns {import("./harness.js").Contender} */
function contender(name, version, worker) {
  return {
    name,
    version,
    supports: () => true,
    prepare: async (benchCase) => {
      await worker.ask({ op: "prepare", case: benchCase });
      return {};
    },
    run: async (_, steps) => (await worker.ask({ op: "run", steps })).ms,
    close: () => worker.close(),
  };
}
