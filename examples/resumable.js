// A long training that can be stopped at any moment: checkpoints, evaluation on what is learnt and on what must not be
// forgotten, the best kept apart from the last. Stop it (Ctrl-C, a crash, a power cut) and start it again with the same
// folder: it goes on where it was, and ends in the same bytes. node examples/resumable.js [folder]
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  accuracy,
  adamw,
  attachLora,
  batchesOf,
  cosine,
  createModel,
  createRandom,
  createSession,
  findLearningRate,
  graphBuilder,
  loadCheckpoint,
  readCheckpoint,
  saveCheckpoint,
  tensor,
  train,
  warmup,
  writeCheckpoint,
} from "lowrank";

const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), "lowrank-resumable-"));
const random = createRandom(7);
const normal = (count, deviation) => Float32Array.from({ length: count }, () => random.normal() * deviation);

// 8 features -> 3 classes; any ONNX file read with readModel goes the same way.
const g = graphBuilder({ name: "base", opset: 17 });
const weight = (name, [to, from]) => g.initializer(name, tensor("float32", [to, from], normal(to * from, 0.3)));
const linear = (x, name, dims) =>
  g.op("Gemm", [x, weight(`${name}.weight`, dims)], { transB: 1 }, { name: `/${name}/Gemm` });
const hidden = g.op("Relu", [linear(g.input("x", "float32", ["batch", 8]), "fc1", [32, 8])]);
g.output(linear(hidden, "fc2", [3, 32]), "float32", ["batch", 3]);
const adapted = attachLora(createModel(g.build(), { opset: 17 }), { r: 4, loraAlpha: 8 });

/** Rows whose class is the largest of their first three features. */
function examples(count) {
  const x = normal(count * 8, 1);
  const labels = BigInt64Array.from({ length: count }, (_, row) => {
    const scores = [...x.subarray(8 * row, 8 * row + 3)];
    return BigInt(scores.indexOf(Math.max(...scores)));
  });
  return { inputs: { x: tensor("float32", [count, 8], x) }, labels: tensor("int64", [count], labels) };
}

// What must not be forgotten: the answers that the base gives, on other data.
const session = await createSession(adapted);
const { inputs } = examples(200);
const logits = [...(await session.run(inputs)).values()][0].data;
await session.dispose();
const answers = BigInt64Array.from({ length: 200 }, (_, row) => {
  const scores = [...logits.subarray(3 * row, 3 * row + 3)];
  return BigInt(scores.indexOf(Math.max(...scores)));
});
const retained = { inputs, labels: tensor("int64", [200], answers) };

const source = batchesOf(examples(512), { batchSize: 32, seed: 1 });
const found = await findLearningRate(adapted, source);
console.log(`a learning rate in the middle of where the loss falls: ${found.suggestion?.toPrecision(2)}`);

const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
const saved = await loadCheckpoint(folder);
if (saved !== null) console.log(`going on from ${folder}`);
const steps = 640;
const { best, history } = await train(adapted, source, {
  steps,
  optimizer: adamw(),
  learningRate: warmup(cosine(0.01, { steps: steps - 40 }), { steps: 40 }),
  clipNorm: 1,
  evaluation: {
    sets: { target: [examples(200)], retained: [retained] },
    metrics: { accuracy: accuracy() },
    every: { epochs: 10 },
    atStart: true,
    best: { metric: "target/accuracy", mode: "max" },
  },
  earlyStopping: { patience: 5 },
  checkpoint: { every: { steps: 100 }, save: (checkpoint) => saveCheckpoint(folder, writeCheckpoint(checkpoint)) },
  ...(saved !== null && { resume: readCheckpoint(saved, folder) }),
  signal: stop.signal,
  onEvaluation: ({ step, values, best: isBest }) => {
    const percent = (name) => `${(100 * values[`${name}/accuracy`]).toFixed(0)} % of ${name}`;
    console.log(`step ${step}: ${percent("target")}, ${percent("retained")}${isBest ? " (best)" : ""}`);
  },
});
console.log(`ended by ${history.end} after ${history.losses.length} steps; best: ${best?.value} at step ${best?.step}`);
console.log(`its checkpoint is in ${folder}`);
