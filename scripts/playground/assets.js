// What the playground's page downloads beside its code: the base (the study's network with a linear head, trained here, its
// weights in int8), two adapters tuned on the digit that it reads worst, and some hundred digits. Nothing of it is in the
// repository: it is made from MNIST once and kept in playground/.cache, under a name that tells what it was made of.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import {
  attachAll,
  attachLora,
  batchesOf,
  compress,
  createModel,
  createRandom,
  createSession,
  graphBuilder,
  initAdapter,
  linear,
  loadMnist,
  tensor,
  train,
  trainAll,
  withWeights,
  writeAdapter,
  writeModel,
  writeSafetensors,
} from "../../dist/node.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const cache = join(root, "playground", ".cache");
/** Raised when this file makes something else of the same digits. */
const recipe = 6;
const pixels = 784;
const sizes = [pixels, 1000, 2000, 10];

/** How many digits the page gets: to measure on (unbiased), to pick from (the misread ones), and to mix in while training. */
const counts = { kept: 500, misread: 120, replay: 300 };

/** The network's input for each byte, as the study has it: pixels / 255, then (x - 0.1307) / 0.3081. */
const normalized = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - 0.1307) / 0.3081);

/**
 * The folder with the page's files, made if it is not there yet.
 *
 * @param {(line: string) => void} tell is told what goes on
 * @returns {Promise<string>}
 */
export async function playgroundAssets(tell = () => undefined) {
  const mnist = await loadMnist({
    onProgress: (event) => {
      if (event.kind === "note") tell(event.message);
    },
  });
  const made = JSON.stringify([recipe, counts, sizes, mnist.source.sha256, mnist.train.count, mnist.test.count]);
  const folder = join(cache, createHash("sha256").update(made).digest("hex").slice(0, 12));
  if (existsSync(join(folder, "playground.json"))) return folder;
  tell(`Making the base from MNIST ${mnist.source.description}; it is kept for the next time.`);
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(join(cache, "new-"));
  try {
    await makeAssets(fresh, mnist, tell);
    rmSync(folder, { recursive: true, force: true });
    renameSync(fresh, folder);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return folder;
}

async function makeAssets(folder, { train: trainSet, test }, tell) {
  const files = {};
  const put = (name, bytes) => {
    writeFileSync(join(folder, name), bytes);
    files[name] = { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
  };
  const all = Array.from({ length: trainSet.count }, (_, index) => index);
  const full = await trainBase(trainSet, all, tell);
  const { model: base } = compress(full, { quantize: "int8" });
  put("base.onnx", writeModel(base));

  const session = await createSession(base);
  const read = await readAll(session, test);
  await session.dispose();
  const wrong = wrongCounts(test, read);
  const worst = wrong.indexOf(Math.max(...wrong));
  tell(`The base reads ${accuracyOf(wrong, test)} % of ${test.count} test digits right, and digit ${worst} worst.`);

  const adapters = [];
  const readings = new Map();
  for (const { id, name, replay } of [
    { id: "ready", name: `Digit ${worst}, with replay`, replay: true },
    { id: "greedy", name: `Digit ${worst} alone`, replay: false },
  ]) {
    const { adapter, wrong: after, read: now } = await tuneOn(base, worst, { trainSet, all, test, replay });
    readings.set(id, now);
    for (const [file, bytes] of writeAdapter(adapter)) put(`${id}-${file}`, bytes);
    adapters.push({ id, name, digit: worst, replay, wrong: after });
    tell(`${name}: wrong on digit ${worst} ${wrong[worst]} -> ${after[worst]}, ${accuracyOf(after, test)} % in all.`);
  }
  const chosen = chooseDigits(trainSet, test, { read, mended: readings.get("ready"), worst });
  put("digits.safetensors.gz", gzipSync(writeSafetensors(chosen), { level: 9 }));
  const about = { version: 1, sizes, trainedOn: trainSet.count, testedOn: test.count, worst, wrong, adapters, files };
  writeFileSync(join(folder, "playground.json"), JSON.stringify(about));
}

/** 784-1000-2000-10 with ReLU between, named as PyTorch names it, starting as torch.nn.Linear does. */
function untrained() {
  const g = graphBuilder({ name: "playground", opset: 18 });
  let value = g.input("x", "float32", ["batch", pixels]);
  for (let layer = 1; layer < sizes.length; layer++) {
    const [from, to] = [sizes[layer - 1], sizes[layer]];
    const draw = (name, dims) => {
      const random = createRandom(0, `init ${name}`);
      const count = dims.reduce((product, dim) => product * dim, 1);
      const data = Float32Array.from({ length: count }, () => (random.uniform() * 2 - 1) / Math.sqrt(from));
      return g.initializer(name, tensor("float32", dims, data));
    };
    const weights = [draw(`fc${layer}.weight`, [to, from]), draw(`fc${layer}.bias`, [to])];
    const isLast = layer === sizes.length - 1;
    const about = { name: `/fc${layer}/Gemm`, ...(isLast && { output: "logits" }) };
    value = g.op("Gemm", [value, ...weights], { transB: 1 }, about);
    if (!isLast) value = g.op("Relu", [value], {}, { name: `/Relu_${layer}` });
  }
  g.output(value, "float32", ["batch", 10]);
  return createModel(g.build(), { opset: 18 });
}

async function trainBase(set, all, tell) {
  const model = untrained();
  const steps = Math.ceil(set.count / 64) * (set.count < 30_000 ? 4 : 1);
  const { tensors, history } = await trainAll(attachAll(model), batchesOf(batchOf(set, all), { batchSize: 64 }), {
    steps,
    onStep: ({ step, loss }) => {
      if (step % 200 === 0) tell(`  step ${step} of ${steps}, loss ${loss.toFixed(3)}`);
    },
  });
  tell(`Trained the base in ${history.seconds.toFixed(1)} s.`);
  return withWeights(model, tensors);
}

/** A LoRA on all three layers of the int8 base, tuned on one digit, or on as many others beside it. */
async function tuneOn(base, digit, { trainSet, all, test, replay }) {
  const [own, others] = [
    all.filter((i) => trainSet.labels[i] === digit),
    all.filter((i) => trainSet.labels[i] !== digit),
  ];
  const random = createRandom(1, "tune");
  random.shuffle(own);
  random.shuffle(others);
  // Without replay as the study does it: a hundred batches of ten. With it, longer: nothing is lost by that.
  const [steps, batchSize] = replay ? [400, 32] : [100, 10];
  const rows = replay ? [...own.slice(0, 2000), ...others.slice(0, 6000)] : own.slice(0, 1000);
  const adapted = attachLora(base, { r: 4, loraAlpha: 8, targetModules: ["fc1", "fc2", "fc3"] });
  const { adapter } = await train(adapted, batchesOf(batchOf(trainSet, rows), { batchSize, seed: 1 }), {
    adapter: initAdapter(adapted, { seed: 1 }).adapter,
    learningRate: replay ? linear(0.002, { steps }) : 0.001,
    steps,
  });
  const session = await createSession(adapted);
  const read = await readAll(session, test, adapter);
  await session.dispose();
  return { adapter, read, wrong: wrongCounts(test, read) };
}

/** Every digit's reading: the class of the largest logit. */
async function readAll(session, set, adapter = null) {
  const read = new Uint8Array(set.count);
  for (let start = 0; start < set.count; start += 500) {
    const rows = Array.from({ length: Math.min(500, set.count - start) }, (_, row) => start + row);
    const { inputs } = batchOf(set, rows);
    const logits = (await session.run(inputs, { adapter })).get("logits").data;
    for (let row = 0; row < rows.length; row++) {
      const scores = logits.subarray(row * 10, row * 10 + 10);
      read[start + row] = scores.indexOf(Math.max(...scores));
    }
  }
  return read;
}

function wrongCounts({ labels }, read) {
  const wrong = new Array(10).fill(0);
  for (const [index, label] of labels.entries()) if (read[index] !== label) wrong[label]++;
  return wrong;
}

function accuracyOf(wrong, { count }) {
  return (100 * (1 - wrong.reduce((sum, own) => sum + own, 0) / count)).toFixed(2);
}

/**
 * Kept digits are the first fifty of each class in the test set; misread ones come from the rest of it, those first that the
 * ready adapter reads right, and among these the digit that it was tuned on.
 */
function chooseDigits(trainSet, test, { read, mended, worst }) {
  const firstOf = (labels, each, start = 0) =>
    Array.from({ length: 10 }, (_, digit) => {
      const found = [];
      for (let index = start; index < labels.length && found.length < each; index++) {
        if (labels[index] === digit) found.push(index);
      }
      return found;
    }).flat();
  const kept = firstOf(test.labels, counts.kept / 10);
  const isKept = new Set(kept);
  const missed = [...read.keys()].filter((index) => read[index] !== test.labels[index] && !isKept.has(index));
  const rank = (index) => (mended[index] === test.labels[index] ? 0 : 2) + (test.labels[index] === worst ? 0 : 1);
  missed.sort((a, b) => rank(a) - rank(b) || a - b);
  const replay = firstOf(trainSet.labels, counts.replay / 10);
  const put = (name, set, indices) => [
    [`${name}.images`, tensor("uint8", [indices.length, pixels], imagesOf(set, indices))],
    [
      `${name}.labels`,
      tensor(
        "uint8",
        [indices.length],
        Uint8Array.from(indices, (index) => set.labels[index]),
      ),
    ],
  ];
  return new Map([
    ...put("kept", test, kept),
    ...put("misread", test, missed.slice(0, counts.misread)),
    ...put("replay", trainSet, replay),
  ]);
}

function imagesOf({ images }, indices) {
  const out = new Uint8Array(indices.length * pixels);
  for (const [row, index] of indices.entries())
    out.set(images.subarray(index * pixels, (index + 1) * pixels), row * pixels);
  return out;
}

function batchOf(set, indices) {
  const x = Float32Array.from(imagesOf(set, indices), (byte) => normalized[byte]);
  const labels = BigInt64Array.from(indices, (index) => BigInt(set.labels[index]));
  return {
    inputs: { x: tensor("float32", [indices.length, pixels], x) },
    labels: tensor("int64", [indices.length], labels),
  };
}
