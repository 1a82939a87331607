// What compression costs and what recovery wins back, on the study's base and MNIST's test images: the table of
// docs/compression.md. After a build:
//
//   node dist/cli/main.js study --head linear --out runs/compress-base
//   node bench/compress.js runs/compress-base/base.onnx [--epochs 1] [--threads 2] [--out FILE.json] [--only NAME]
//
// MNIST is looked for where the study looks (LOWRANK_DATA). Every size is that of files: the model's, and the adapter's where
// one stays beside it. Accuracy is measured on all 10,000 test images, which nothing is fitted to: errors are weighed with 512
// training images, and recovery learns the original's outputs on training images, without their labels.
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import {
  compress,
  compressWith,
  constant,
  createSession,
  loadMnist,
  merge,
  readModel,
  recover,
  tensor,
  writeAdapter,
  writeModel,
} from "../dist/node.js";

/** MNIST's mean and standard deviation, as the study takes them. */
const [mean, deviation] = [0.1307, 0.3081];
const pixels = 784;
const batchSize = 64;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    epochs: { type: "string", default: "1" },
    threads: { type: "string", default: "1" },
    out: { type: "string" },
    only: { type: "string", default: "" },
  },
});
const [file = "runs/compress-base/base.onnx"] = positionals;
const session = { threads: Number(values.threads) };

const bytesOfBase = (await readFile(file)).length;
const base = readModel(await readFile(file), file);
const { train, test } = await loadMnist();
const passes = Number(values.epochs);

/** @typedef {{ name: string, bytes: number, share: number, accuracy: number, recovered: null | { how: string, bytes: number, share: number, accuracy: number, seconds: number }, seconds: number }} Row */

/** What is done; `recover`: "merged" into float factors (and quantized after that), or "beside" as an adapter on codes. */
const cases = [
  { name: "fc2 at rank 64, plain", options: { rank: 64, targetModules: ["fc2"] }, recover: "merged" },
  { name: "fc2 at rank 64, on data", options: { rank: 64, targetModules: ["fc2"] }, data: true, recover: "merged" },
  { name: "int8", options: { quantize: "int8" } },
  { name: "int4", options: { quantize: "int4" }, recover: "beside" },
  { name: "a quarter, plain", options: { size: 0.25 }, recover: "merged" },
  { name: "a quarter, on data", options: { size: 0.25 }, data: true, recover: "merged" },
  { name: "a quarter, int8 on top", options: { size: 0.2495, quantize: "int8" }, data: true },
  { name: "a tenth, plain", options: { size: 0.0995 }, recover: "merged" },
  { name: "a tenth, on data", options: { size: 0.0995 }, data: true, recover: "merged" },
  { name: "a tenth, int8 on top, plain", options: { size: 0.0995, quantize: "int8" }, recover: "merged" },
  { name: "a tenth, int8 on top, on data", options: { size: 0.0995, quantize: "int8" }, data: true, recover: "merged" },
  {
    name: "a twentieth, int8 on top, on data",
    options: { size: 0.0495, quantize: "int8" },
    data: true,
    recover: "merged",
  },
  {
    name: "a twentieth, int4 on top, on data",
    options: { size: 0.0495, quantize: "int4" },
    data: true,
    recover: "merged",
  },
].filter(({ name }) => name.includes(values.only));

const original = await accuracyOf(base);
console.error(`original: ${bytesOfBase} bytes, accuracy ${original}`);
/** @type {Row[]} */
const rows = [];
for (const one of cases) {
  const begun = performance.now();
  const samples = one.data ? [{ inputs: { x: images(train, 0, 512) } }] : null;
  const compressed = await compressWith(base, samples, { ...session, ...one.options });
  const { model } = compressed;
  const row = { name: one.name, ...sizeOf(writeModel(model).length), accuracy: await accuracyOf(model) };
  const seconds = (performance.now() - begun) / 1000;
  const recovered = one.recover === undefined ? null : await winBack(compressed, one);
  rows.push({ ...row, seconds, recovered });
  const after = recovered === null ? "" : `; ${recovered.how}: ${recovered.bytes} bytes, ${recovered.accuracy}`;
  console.error(`${one.name}: ${row.bytes} bytes, ${row.accuracy} (${seconds.toFixed(1)} s)${after}`);
}

console.log(`| model | bytes | of the base | accuracy | after recovery | its bytes | against the base |`);
console.log(`| --- | --: | --: | --: | --: | --: | --: |`);
const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(2)} %`;
const points = (/** @type {number} */ accuracy) =>
  `${accuracy < original ? "" : "+"}${(100 * (accuracy - original)).toFixed(2)}`;
console.log(`| the base | ${bytesOfBase.toLocaleString("en")} | 100.00 % | ${percent(original)} | | | |`);
for (const { name, bytes, share, accuracy, recovered } of rows) {
  const after =
    recovered === null
      ? ["", "", points(accuracy)]
      : [percent(recovered.accuracy), recovered.bytes.toLocaleString("en"), points(recovered.accuracy)];
  console.log(`| ${[name, bytes.toLocaleString("en"), percent(share), percent(accuracy), ...after].join(" | ")} |`);
}
if (values.out !== undefined) {
  const found = { base: { bytes: bytesOfBase, accuracy: original }, epochs: passes, rows };
  await writeFile(values.out, `${JSON.stringify(found, null, 2)}\n`);
}

/** @param {number} bytes */
function sizeOf(bytes) {
  return { bytes, share: bytes / bytesOfBase };
}

/**
 * Distils the original into an adapter on the compressed model.
 * @param {import("../dist/node.js").Compressed} compressed
 * @param {(typeof cases)[number]} one
 */
async function winBack({ model, layers, variant }, { options, recover: how }) {
  const begun = performance.now();
  const isMerged = how === "merged";
  const student = isMerged ? variant({ quantized: false }) : model;
  const { adapter, adapted } = await recover(base, student, trainingBatches, {
    ...session,
    config: { r: 8, loraAlpha: 16 },
    learningRate: constant(5e-4),
    epochs: passes,
  });
  const seconds = (performance.now() - begun) / 1000;
  if (!isMerged) {
    const beside = [...writeAdapter(adapter).values()].reduce((sum, bytes) => sum + bytes.length, 0);
    const accuracy = await accuracyOf(adapted, adapter);
    return { how: "adapter beside", ...sizeOf(writeModel(model).length + beside), accuracy, seconds };
  }
  const merged = merge(student, adapter);
  const paths = layers.flatMap(({ modulePath, rank }) =>
    rank === null ? [modulePath] : [`${modulePath}.0`, `${modulePath}.1`],
  );
  const { quantize } = options;
  const finished = quantize === undefined ? merged : compress(merged, { quantize, targetModules: paths }).model;
  return { how: "merged", ...sizeOf(writeModel(finished).length), accuracy: await accuracyOf(finished), seconds };
}

/** Training images in an order of each pass's own. */
function* trainingBatches(/** @type {number} */ epoch) {
  const steps = Math.floor(train.count / batchSize);
  // A step of a prime length through the batches: each once, neighbours apart.
  for (let at = 0; at < steps; at++) {
    yield { inputs: { x: images(train, ((at * 379 + epoch * 101) % steps) * batchSize, batchSize) } };
  }
}

/**
 * @param {import("../dist/node.js").AdaptedModel | import("../dist/node.js").Model} model
 * @param {import("../dist/node.js").Adapter | null} [adapter]
 */
async function accuracyOf(model, adapter = null) {
  const opened = await createSession(model, session);
  let right = 0;
  for (let from = 0; from < test.count; from += 500) {
    const outputs = await opened.run({ x: images(test, from, 500) }, { adapter });
    const { data } = [...outputs.values()][0];
    for (let row = 0; row < 500; row++) {
      const scores = data.subarray(row * 10, row * 10 + 10);
      if (scores.indexOf(Math.max(...scores)) === test.labels[from + row]) right++;
    }
  }
  await opened.dispose();
  return right / test.count;
}

/**
 * Images as the network reads them, [count, 784].
 * @param {{ images: Uint8Array }} set
 * @param {number} from
 * @param {number} count
 */
function images(set, from, count) {
  const bytes = set.images.subarray(from * pixels, (from + count) * pixels);
  return tensor(
    "float32",
    [count, pixels],
    Float32Array.from(bytes, (byte) => (byte / 255 - mean) / deviation),
  );
}
