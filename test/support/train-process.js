// Trains a small network into the folder that is named, from its checkpoint where there is one: to be killed and started again.
// Says "training" when the first step is done. node train-process.js FOLDER STEPS
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  accuracy,
  adamw,
  attachLora,
  batchesOf,
  cosine,
  createModel,
  createRandom,
  graphBuilder,
  loadCheckpoint,
  plateau,
  readCheckpoint,
  saveCheckpoint,
  tensor,
  train,
  warmup,
  writeAdapter,
  writeCheckpoint,
} from "lowrank";

const [folder, stepsText] = process.argv.slice(2);
const steps = Number(stepsText);
const random = createRandom(0, "process");
const normals = (count, size) => Float32Array.from({ length: count }, () => size * random.normal());

/** x [batch, 8] -> logits [batch, 4]. */
function network() {
  const g = graphBuilder({ name: "mlp", opset: 18 });
  const layer = (x, name, inputs, outputs, options = {}) => {
    const weight = g.initializer(
      `${name}.weight`,
      tensor("float32", [outputs, inputs], normals(inputs * outputs, 0.3)),
    );
    const bias = g.initializer(`${name}.bias`, tensor("float32", [outputs], normals(outputs, 0.3)));
    return g.op("Gemm", [x, weight, bias], { transB: 1 }, { name: `/${name}/Gemm`, ...options });
  };
  const hidden = g.op("Relu", [layer(g.input("x", "float32", ["batch", 8]), "first", 8, 24)]);
  g.output(layer(hidden, "second", 24, 4, { output: "logits" }), "float32", ["batch", 4]);
  return createModel(g.build(), { opset: 18 });
}

/** Rows whose class is the largest of four of their features, from `shift` on. */
function examples(count, shift) {
  const x = normals(8 * count, 1);
  const labels = BigInt64Array.from({ length: count }, (_, row) => {
    const scores = [...x.subarray(8 * row + shift, 8 * row + shift + 4)];
    return BigInt(scores.indexOf(Math.max(...scores)));
  });
  return { inputs: { x: tensor("float32", [count, 8], x) }, labels: tensor("int64", [count], labels) };
}

const adapted = attachLora(network(), { r: 2, loraAlpha: 4 });
const source = batchesOf(examples(300, 0), { batchSize: 16, seed: 3 });
const saved = await loadCheckpoint(folder);
let told = false;
const { adapter, best, averaged, history } = await train(adapted, source, {
  steps,
  threads: 1,
  seed: 3,
  optimizer: adamw({ weightDecay: 0.01 }),
  learningRate: plateau(warmup(cosine(0.01, { steps }), { steps: 20 }), { mode: "max", patience: 3, factor: 0.7 }),
  accumulate: 2,
  clipNorm: 1,
  ema: { decay: 0.98 },
  evaluation: {
    sets: { target: [examples(40, 0)], retained: [examples(40, 4)] },
    metrics: { accuracy: accuracy() },
    every: { epochs: 3 },
    best: { metric: "target/accuracy", mode: "max" },
  },
  earlyStopping: { patience: 1000 },
  ...(saved !== null && { resume: readCheckpoint(saved, folder) }),
  checkpoint: { every: { steps: 7 }, save: (checkpoint) => saveCheckpoint(folder, writeCheckpoint(checkpoint)) },
  onStep: () => {
    if (!told) process.stdout.write("training\n");
    told = true;
  },
});

for (const [name, trained] of Object.entries({ adapter, best: best.adapter, averaged })) {
  mkdirSync(join(folder, name), { recursive: true });
  for (const [file, bytes] of writeAdapter(trained)) writeFileSync(join(folder, name, file), bytes);
}
const { seconds: _, losses, ...rest } = history;
writeFileSync(join(folder, "history.json"), JSON.stringify({ ...rest, losses: [...losses], best: best.value }));
