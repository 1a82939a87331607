// One JavaScript peer in a process of its own: node bench/peers/worker.js web|jax|tfjs. It prints { name, version }, or { missing }
// where the package is not installed, and answers bench/peers.js:
//   { op: "prepare", case } -> {}      { op: "run", steps } -> { ms: [...] }
import { createInterface } from "node:readline";
import { NETWORK } from "./network.js";

const implementations = { web: "./web.js", jax: "./jax.js", tfjs: "./tfjs.js" };
/** Batches that the steps take in turn, so that no input stays in a cache that training would not leave it in. */
const batchCount = 8;

const answer = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
let peer;
try {
  const { connect } = await import(implementations[process.argv[2]]);
  peer = await connect();
} catch (error) {
  answer({ missing: String(error.message).split("\n")[0] });
  process.exit(0);
}
answer({ version: peer.version });

let current = null;
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const command = JSON.parse(line);
    if (command.op === "prepare") {
      await current?.close();
      current = await peer.prepare(command.case, batches(command.case.batch));
      answer({});
    } else answer({ ms: await (current.run ?? timed)(command.steps) });
  } catch (error) {
    answer({ error: String(error.stack ?? error) });
  }
}

async function timed(steps) {
  const times = [];
  for (let step = 0; step < steps; step++) {
    const begun = performance.now();
    await current.step(step % batchCount);
    times.push(performance.now() - begun);
  }
  return times;
}

function batches(size) {
  const [features] = NETWORK;
  return Array.from({ length: batchCount }, () => ({
    size,
    x: Float32Array.from({ length: size * features }, () => 2 * Math.random() - 0.4),
    labels: Int32Array.from({ length: size }, () => Math.floor(Math.random() * 10)),
  }));
}
