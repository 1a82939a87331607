// Does memory grow with the data? node bench/streaming.js [--megabytes 1000]
// JSON Lines files of a tenth, a third and all of that size are written one after the other; a process of its own opens each,
// checks all rows and goes over a shuffled pass in batches of 64, as training does. Its peak memory is told, and its slope over the two larger ones.
// The files are read as those are that do not fit into memory (of smaller ones up to 256 MiB of numbers would be kept).
import { execFileSync } from "node:child_process";
import { createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openDataset } from "../dist/node.js";

const features = 64;
const { values } = parseArgs({
  options: { megabytes: { type: "string", default: "1000" }, pass: { type: "string" } },
});
if (values.pass === undefined) await bench(Number(values.megabytes));
else await pass(values.pass);

async function bench(most) {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-bench-streaming-"));
  try {
    const peaks = [];
    for (const megabytes of [most / 10, most / 3, most].map(Math.round)) {
      const path = join(folder, "rows.jsonl");
      await writeRows(path, megabytes * 1e6);
      const told = execFileSync(process.execPath, [fileURLToPath(import.meta.url), "--pass", path], {
        encoding: "utf8",
      });
      const { rows, seconds, peak, started } = JSON.parse(told);
      peaks.push({ megabytes, peak });
      console.log(
        `${String(megabytes).padStart(6)} MB, ${rows} rows: peak ${peak.toFixed(0)} MiB (${started.toFixed(0)} before the file was opened), ` +
          `${(megabytes / seconds).toFixed(0)} MB a second, opening and checking included`,
      );
    }
    // A file of a few windows ends before the collector has found its pace.
    const [before, last] = peaks.slice(-2);
    const slope = (last.peak - before.peak) / ((last.megabytes - before.megabytes) / 1000);
    console.log(`from ${before.megabytes} to ${last.megabytes} MB: ${slope.toFixed(1)} MiB more for each GB`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function writeRows(path, bytes) {
  const file = createWriteStream(path);
  for (let [row, written] = [0, 0]; written < bytes; row++) {
    const x = Array.from({ length: features }, (_, at) => ((row * 7919 + at * 104729) % 10007) / 1000);
    const line = `${JSON.stringify({ x, label: row % 3, note: "a note that no input reads, as such files have them" })}\n`;
    if (!file.write(line)) await new Promise((resolve) => file.once("drain", resolve));
    written += line.length;
  }
  file.end();
  await finished(file);
}

async function pass(path) {
  const peak = () => process.resourceUsage().maxRSS / 1024;
  const started = peak();
  const begun = performance.now();
  const data = await openDataset(path, { memoryBytes: 0 });
  const source = await data.source({
    inputs: [{ name: "x", type: "float32", dims: ["batch", features] }],
    batchSize: 64,
    seed: 1,
    passes: 1,
  });
  let rows = 0;
  for await (const { batch, examples } of source.batches({ epoch: 0, index: 0 })) {
    // Inputs are made when they are read.
    if (batch.inputs.x.dims[0] === examples) rows += examples;
  }
  await data.close();
  console.log(JSON.stringify({ rows, seconds: (performance.now() - begun) / 1000, peak: peak(), started }));
}
