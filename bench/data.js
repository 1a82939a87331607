// How much of a step is data loading: node bench/data.js [--rows 12800] [--rounds 5] [--threads 2]
// The study's network at batch 64, rank 8 on its three layers, trained on images of 28 x 28 bytes from files of each format.
// A pass over the data alone (shuffled, a new order each time; the first pass is not counted) and as many training steps on
// batches that lie ready take turns in rounds; the share is the median of load / (load + step). That of the quickest pass and
// the quickest quarter of all steps says more where other programs run.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom, openDataset, tensor, writeSafetensors } from "../dist/node.js";
import { statistics } from "./harness.js";
import { lowrankContender } from "./lowrank.js";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "12800" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
  },
});
const [rows, rounds, threads] = [Number(values.rows), Number(values.rounds), Number(values.threads)];
const [batchSize, width] = [64, 784];
const folder = mkdtempSync(join(tmpdir(), "lowrank-bench-data-"));

try {
  await bench();
} finally {
  rmSync(folder, { recursive: true });
}

async function bench() {
  const trainer = lowrankContender(threads);
  const lora = { kind: "lora", batch: batchSize, r: 8 };
  await trainer.prepare(lora);
  const batches = Math.floor(rows / batchSize);
  await trainer.run(lora, batches);
  for (const [name, { path, ...options }] of Object.entries(writeFiles())) {
    const data = await openDataset(path, options);
    const inputs = [{ name: "x", type: "float32", dims: ["batch", width] }];
    const normalization = { mean: [0.1307], std: [0.3081] };
    const source = await data.source({ inputs, batchSize, seed: 1, normalization, dropLast: true });
    await passOf(source, 0);
    const [loads, shares, times] = [[], [], []];
    for (let round = 1; round <= rounds; round++) {
      const load = (await passOf(source, round)) / batches;
      const steps = await trainer.run(lora, batches);
      const step = steps.reduce((sum, ms) => sum + ms, 0) / batches;
      loads.push(load);
      times.push(...steps);
      shares.push(load / (load + step));
    }
    const [load, share] = [statistics(loads), statistics(shares)];
    const range = [share.min, Math.max(...shares)].map((one) => (100 * one).toFixed(1)).join(" to ");
    const quickest = (100 * load.min) / (load.min + statistics(times).q1);
    console.log(
      `${name.padEnd(18)} ${load.median.toFixed(3)} ms a batch, ${(100 * share.median).toFixed(1)} % of a step (${range}); ` +
        `quickest ${load.min.toFixed(3)} beside ${statistics(times).q1.toFixed(2)} ms, ${quickest.toFixed(1)} %`,
    );
    await data.close();
  }
  await trainer.close();
}

/** Milliseconds of a pass over the data, with nothing else to do. */
async function passOf(source, epoch) {
  const begun = performance.now();
  for await (const { batch, next } of source.batches({ epoch, index: 0 })) {
    // Inputs are made when they are read.
    if (batch.inputs.x.dims[0] !== batchSize || next.epoch > epoch) break;
  }
  return performance.now() - begun;
}

/** The same images in each format. */
function writeFiles() {
  const random = createRandom(0, "bench data");
  // Half of a digit's pixels are background.
  const pixels = Uint8Array.from({ length: rows * width }, () => Math.max(0, random.integer(512) - 256));
  const labels = Uint8Array.from({ length: rows }, (_, row) => row % 10);
  const lines = Array.from({ length: rows }, (_, row) => [...pixels.subarray(row * width, (row + 1) * width)]);
  const header = ["label", ...Array.from({ length: width }, (_, at) => `x${at}`)].join(",");
  const csv = `${[header, ...lines.map((line, row) => `${labels[row]},${line.join(",")}`)].join("\n")}\n`;
  const tensors = { x: tensor("uint8", [rows, 28, 28], pixels), label: tensor("uint8", [rows], labels) };
  const idx = (dims, data) =>
    Buffer.concat([Buffer.from([0, 0, 8, dims.length]), ...dims.map((dim) => bigEndian(dim)), data]);
  const files = {
    IDX: ["images-idx3-ubyte", idx([rows, 28, 28], pixels)],
    CSV: ["images.csv", csv],
    "CSV with a note": ["noted.csv", csv.replaceAll("\n", ",a note\n").replace(",a note", ",note")],
    JSONL: ["images.jsonl", lines.map((x, row) => `${JSON.stringify({ x, label: labels[row] })}\n`).join("")],
    safetensors: ["images.safetensors", writeSafetensors(new Map(Object.entries(tensors)))],
  };
  writeFileSync(join(folder, "labels-idx1-ubyte"), idx([rows], labels));
  const cases = {};
  for (const [name, [file, content]] of Object.entries(files)) {
    const path = join(folder, file);
    writeFileSync(path, content);
    cases[name] = { path };
    // As files are read that are too large for memory.
    cases[`${name}, read anew`] = { path, memoryBytes: 0 };
  }
  return cases;
}

function bigEndian(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
