// Tuning the head only, with and without a frozen prefix: node bench/prefix.js [--examples 60000] [--batch 64] [--epochs 4] [--rounds 3] [--disk]
// The study's network, 784-1000-2000-10, r 8 on fc3; random pixels, since time does not depend on them. Each pass is timed as
// `train` does it, batches and optimizer included; the first pass with the prefix is the one that fills the cache. Both ways
// take turns, as the machine's own speed drifts; the fastest passes are compared, by the clock and by the processor's time: the latter, with --threads 1, holds on a machine that is busy.
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { attachLora, batchesOf, createRandom, inFolder, inMemory, tensor, train } from "../dist/node.js";
import { studyNetwork } from "../dist/study/network.js";

const { values } = parseArgs({
  options: {
    examples: { type: "string", default: "60000" },
    batch: { type: "string", default: "64" },
    epochs: { type: "string", default: "4" },
    rounds: { type: "string", default: "3" },
    targets: { type: "string", default: "fc3" },
    threads: { type: "string", default: String(availableParallelism()) },
    disk: { type: "boolean", default: false },
  },
});
const [count, batchSize, epochs, rounds] = [values.examples, values.batch, values.epochs, values.rounds].map(Number);
const random = createRandom(1);
const x = Float32Array.from({ length: count * 784 }, () => random.uniform());
const digits = BigInt64Array.from({ length: count }, () => BigInt(random.integer(10)));
const examples = { inputs: { x: tensor("float32", [count, 784], x) }, labels: tensor("int64", [count], digits) };
const folder = mkdtempSync(join(tmpdir(), "lowrank-bench-"));
const place = values.disk ? inFolder(folder, 2 ** 33) : inMemory(2 ** 30);

/** Seconds by the clock, and of the processor. */
function now() {
  const { user, system } = process.cpuUsage();
  return { clock: performance.now() / 1000, cpu: (user + system) / 1e6 };
}

/** Seconds of each pass, and the last loss. */
async function passes(prefixCache) {
  const source = batchesOf(examples, { batchSize, seed: 1 });
  const adapted = attachLora(studyNetwork("linear", 0), {
    r: 8,
    loraAlpha: 16,
    targetModules: values.targets.split(","),
  });
  const times = [];
  let begun = now();
  const { history } = await train(adapted, source, {
    epochs,
    threads: Number(values.threads),
    prefixCache,
    onPrefix: (plan) => console.log(JSON.stringify(plan)),
    onStep: ({ step }) => {
      if (step === 1) begun = now();
      if (step % source.batchesPerEpoch !== 0) return;
      const { clock, cpu } = now();
      times.push({ clock: clock - begun.clock, cpu: cpu - begun.cpu });
      begun = now();
    },
  });
  return { times, loss: history.losses.at(-1) };
}

try {
  const show = (times) => times.map(({ clock, cpu }) => `${clock.toFixed(3)} s (${cpu.toFixed(2)} s)`).join(", ");
  const [without, cached] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const plain = await passes(false);
    const kept = await passes({ places: [place] });
    console.log(`passes without: ${show(plain.times)}; last loss ${plain.loss}`);
    console.log(`passes with:    ${show(kept.times)}; last loss ${kept.loss}`);
    without.push(...plain.times);
    cached.push(...kept.times.slice(1));
  }
  const ratio = (unit) => {
    const least = (times) => Math.min(...times.map((time) => time[unit]));
    return (least(without) / least(cached)).toFixed(1);
  };
  console.log(`from the second pass on: ${ratio("clock")} times faster by the clock, ${ratio("cpu")} times less work`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
