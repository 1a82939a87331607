// Does a long run stay as it began? 20,000 steps of LoRA on a small network with all that a run may have: memory after a
// warm-up, and the speed of the last tenth against the second. node --expose-gc bench/long-run.js [steps]
import {
  attachLora,
  batchesOf,
  cosine,
  createModel,
  createRandom,
  graphBuilder,
  tensor,
  train,
  writeCheckpoint,
} from "../dist/index.js";

const steps = Number(process.argv[2] ?? 20_000);
const [features, hidden, classes, count] = [64, 128, 10, 2000];
const random = createRandom(0, "long run");
const normals = (size, scale) => Float32Array.from({ length: size }, () => scale * random.normal());

function network() {
  const g = graphBuilder({ name: "mlp", opset: 18 });
  const layer = (x, name, [inputs, outputs]) => {
    const weight = g.initializer(
      `${name}.weight`,
      tensor("float32", [outputs, inputs], normals(inputs * outputs, 0.1)),
    );
    return g.op("Gemm", [x, weight], { transB: 1 }, { name: `/${name}/Gemm` });
  };
  const h = g.op("Relu", [layer(g.input("x", "float32", ["batch", features]), "fc1", [features, hidden])]);
  g.output(layer(h, "fc2", [hidden, classes]), "float32", ["batch", classes]);
  return createModel(g.build(), { opset: 18 });
}

function examples(size) {
  const labels = BigInt64Array.from({ length: size }, () => BigInt(random.integer(classes)));
  return {
    inputs: { x: tensor("float32", [size, features], normals(size * features, 1)) },
    labels: tensor("int64", [size], labels),
  };
}

/** Processor time of this process in ms: on a busy machine the clock on the wall says little. */
function processorMs() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const tenth = steps / 10;
const [starts, ends] = [[processorMs()], []];
const times = [performance.now()];
const memory = [];
await train(attachLora(network(), { r: 8 }), batchesOf(examples(count), { batchSize: 32 }), {
  steps,
  threads: 1,
  learningRate: cosine(1e-3, { steps }),
  clipNorm: 1,
  ema: {},
  evaluation: { sets: { target: [examples(100)], retained: [examples(100)] }, every: { steps: 500 } },
  checkpoint: { every: { steps: 500 }, save: (checkpoint) => void writeCheckpoint(checkpoint) },
  onStep: ({ step }) => {
    if (step % tenth !== 0) return;
    ends.push(processorMs());
    times.push(performance.now());
    globalThis.gc?.();
    memory.push(process.memoryUsage().rss / 2 ** 20);
    starts.push(processorMs());
  },
});
const costs = ends.map((end, index) => (1000 * (end - starts[index])) / tenth);
const round = (values) => values.map((value) => Math.round(value)).join(" ");
const rates = times.slice(1).map((time, index) => (1000 * tenth) / (time - times[index]));
process.stdout.write(`steps per second, by tenths: ${round(rates)}\n`);
process.stdout.write(`processor µs per step, by tenths: ${round(costs)}\nmemory in MiB, by tenths: ${round(memory)}\n`);
// The first tenth warms up.
const change = (values) => `${(100 * (values.at(-1) / values[1] - 1)).toFixed(1)} %`;
const grown = Math.max(...memory.slice(1)) - memory[1];
process.stdout.write(
  `from the second tenth to the last: ${change(rates)} steps per second, ${change(costs)} processor time; memory grew by at most ${grown.toFixed(1)} MiB\n`,
);
