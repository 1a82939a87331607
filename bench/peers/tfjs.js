// TensorFlow.js on its WebAssembly backend, with its own Adam.
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { BETA1, BETA2, drawLayers, EPSILON, LEARNING_RATE } from "./network.js";

const require = createRequire(import.meta.url);

export async function connect() {
  const quiet = console.warn;
  console.warn = () => {};
  const tf = require("@tensorflow/tfjs");
  const { setWasmPaths } = require("@tensorflow/tfjs-backend-wasm");
  setWasmPaths(`${dirname(require.resolve("@tensorflow/tfjs-backend-wasm/package.json"))}/dist/`);
  await tf.setBackend("wasm");
  await tf.ready();
  console.warn = quiet;
  return {
    version: `TensorFlow.js ${tf.version.tfjs} (${tf.getBackend()})`,
    prepare: async (benchCase, batches) => prepare(tf, benchCase, batches),
  };
}

function prepare(tf, { kind, r }, batches) {
  const layers = drawLayers(kind === "lora" ? r : undefined).map((layer) => variables(tf, kind, layer));
  const inputs = batches.map(({ size, x, labels }) => ({
    x: tf.tensor2d(x, [size, x.length / size]),
    y: tf.oneHot(tf.tensor1d(labels, "int32"), 10).toFloat(),
  }));
  const logits = (x) => layers.reduce((h, layer, index) => apply(tf, layer, h, index === layers.length - 1), x);
  const adam = tf.train.adam(LEARNING_RATE, BETA1, BETA2, EPSILON);
  const trained = layers.flatMap(({ trained: some }) => some);
  const train = (index) => {
    const { x, y } = inputs[index];
    adam.minimize(() => tf.losses.softmaxCrossEntropy(y, logits(x)), false, trained);
  };
  const infer = (index) => {
    const out = tf.tidy(() => logits(inputs[index].x));
    out.dataSync();
    out.dispose();
  };
  return {
    step: async (index) => (kind === "forward" ? infer(index) : train(index)),
    close: async () => tf.disposeVariables(),
  };
}

function variables(tf, kind, { inputs, outputs, weight, bias, a, b }) {
  const W = tf.variable(tf.tensor2d(weight, [inputs, outputs]), kind === "full");
  const c = tf.variable(tf.tensor1d(bias), kind === "full");
  if (a === undefined) return { W, c, trained: [W, c] };
  const r = a.length / inputs;
  const [A, B] = [tf.variable(tf.tensor2d(a, [inputs, r])), tf.variable(tf.tensor2d(b, [r, outputs]))];
  return { W, c, A, B, trained: [A, B] };
}

function apply(tf, { W, c, A, B }, x, isLast) {
  const base = tf.add(tf.matMul(x, W), c);
  const sum = A === undefined ? base : tf.add(base, tf.matMul(tf.matMul(x, A), B));
  return isLast ? sum : tf.relu(sum);
}
