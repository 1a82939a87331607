// Data of any size streams: a pass over 100 MB of JSON Lines, opened, checked and shuffled, takes a bounded part of memory.
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { expect, it } from "vitest";
import { node } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const [features, note, megabytes] = [16, 1500, 100];

async function writeRows(name: string, bytes: number): Promise<number> {
  const file = createWriteStream(join(work, name));
  let [rows, written] = [0, 0];
  while (written < bytes) {
    const x = Array.from({ length: features }, (_, at) => ((rows * 7 + at * 13) % 100) / 10);
    const line = `${JSON.stringify({ x, label: rows % 3, note: "n".repeat(note) })}\n`;
    if (!file.write(line)) await new Promise<void>((resolve) => file.once("drain", resolve));
    written += line.length;
    rows++;
  }
  file.end();
  await finished(file);
  return rows;
}

const script = `
import { openDataset } from ${JSON.stringify(join(root, "dist", "node.js"))};
const pass = async (path) => {
  const data = await openDataset(path);
  const inputs = [{ name: "x", type: "float32", dims: ["batch", ${features}] }];
  const source = await data.source({ inputs, batchSize: 64, seed: 1, passes: 1 });
  let [rows, sum] = [0, 0];
  for await (const { batch, examples } of source.batches({ epoch: 0, index: 0 })) {
    rows += examples;
    for (const label of batch.labels.data) sum += Number(label);
  }
  await data.close();
  return { rows, sum };
};
const peak = () => process.resourceUsage().maxRSS / 1024;
await pass("small.jsonl");
const before = peak();
const found = await pass("large.jsonl");
console.log(JSON.stringify({ ...found, before, after: peak() }));
`;

/** What a pass over a window of the shuffled order, parsed, may take beside the garbage that is not yet collected. */
const mostMiB = 96;

it("reads 100 MB of JSON Lines in bounded memory", async () => {
  await writeRows("small.jsonl", 2e6);
  const rows = await writeRows("large.jsonl", megabytes * 1e6);
  const { code, stdout, stderr } = await node(["--input-type=module", "-e", script], { cwd: work });
  expect(code, stderr).toBe(0);
  const found = JSON.parse(stdout) as { rows: number; sum: number; before: number; after: number };
  expect(found.rows).toBe(rows);
  expect(found.sum).toBe(Array.from({ length: rows }, (_, row) => row % 3).reduce((sum, label) => sum + label, 0));
  expect(found.after - found.before, `peak ${found.before} and ${found.after} MiB`).toBeLessThan(mostMiB);
});
