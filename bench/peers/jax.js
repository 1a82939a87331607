// jax-js on its WebAssembly backend: value and gradient and Adam in one jitted function. jax-js counts references: what is
// used again is passed as `x.ref`.
import { readFileSync } from "node:fs";
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import { BETA1, BETA2, drawLayers, EPSILON, LEARNING_RATE } from "./network.js";

export async function connect() {
  await init("wasm");
  defaultDevice("wasm");
  const file = new URL("./node_modules/@jax-js/jax/package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(file, "utf8"));
  return { version: `jax-js ${version} (WebAssembly)`, prepare };
}

async function prepare({ kind, r }, batches) {
  const layers = drawLayers(kind === "lora" ? r : undefined).map(arrays);
  const inputs = batches.map(({ size, x, labels }) => ({
    x: np.array(x).reshape([size, x.length / size]),
    y: nn.oneHot(np.array(labels, { dtype: np.int32 }), 10),
  }));
  if (kind === "forward") return inference(layers, inputs);
  const [trained, frozen] = [layers.map(trainedPart(kind)), layers.map(frozenPart(kind))];
  const state = { parameters: trained, m: zeros(trained), v: zeros(trained), t: np.array([0]) };
  return training(state, frozen, inputs);
}

function arrays({ inputs, outputs, weight, bias, a, b }) {
  const layer = { weight: np.array(weight).reshape([inputs, outputs]), bias: np.array(bias) };
  if (a === undefined) return layer;
  const r = a.length / inputs;
  return { ...layer, a: np.array(a).reshape([inputs, r]), b: np.array(b).reshape([r, outputs]) };
}

const trainedPart =
  (kind) =>
  ({ weight, bias, a, b }) =>
    kind === "lora" ? { a, b } : { weight, bias };
const frozenPart =
  (kind) =>
  ({ weight, bias }) =>
    kind === "lora" ? { weight, bias } : {};

function zeros(parameters) {
  return tree.map((one) => np.zeros(one.shape), tree.ref(parameters));
}

/** Logits of x [batch, 784]. Takes over all it is given. */
function apply(layers, x) {
  let h = x;
  for (const [index, { weight, bias, a, b }] of layers.entries()) {
    const delta = a === undefined ? undefined : np.matmul(np.matmul(h.ref, a), b);
    const base = np.matmul(h, weight).add(bias);
    const sum = delta === undefined ? base : base.add(delta);
    h = index === layers.length - 1 ? sum : nn.relu(sum);
  }
  return h;
}

function lossOf(trained, frozen, x, y) {
  const size = x.shape[0];
  const logits = apply(
    trained.map((part, index) => ({ ...part, ...frozen[index] })),
    x,
  );
  return nn
    .logSoftmax(logits, -1)
    .mul(y)
    .sum()
    .mul(-1 / size);
}

function training(initial, frozen, inputs) {
  const update = jit((state, fixed, x, y) => {
    const [loss, gradients] = valueAndGrad(lossOf)(tree.ref(state.parameters), fixed, x, y);
    const t = state.t.add(1);
    const one = (p, g, m, v) => {
      const m1 = m.mul(BETA1).add(g.ref.mul(1 - BETA1));
      const v1 = v.mul(BETA2).add(g.ref.mul(g).mul(1 - BETA2));
      const c1 = np.array(1).sub(np.power(np.array(BETA1), t.ref));
      const c2 = np.array(1).sub(np.power(np.array(BETA2), t.ref));
      const step = m1.ref.div(c1).div(np.sqrt(v1.ref.div(c2)).add(EPSILON));
      return { p: p.sub(step.mul(LEARNING_RATE)), m: m1, v: v1 };
    };
    const updated = state.parameters.map((layer, index) =>
      Object.fromEntries(
        Object.keys(layer).map((key) => [
          key,
          one(layer[key], gradients[index][key], state.m[index][key], state.v[index][key]),
        ]),
      ),
    );
    const part = (name) =>
      updated.map((layer) => Object.fromEntries(Object.entries(layer).map(([key, value]) => [key, value[name]])));
    return [{ parameters: part("p"), m: part("m"), v: part("v"), t }, loss];
  });
  let state = initial;
  return {
    step: async (index) => {
      const { x, y } = inputs[index];
      const [next, loss] = update(state, tree.ref(frozen), x.ref, y.ref);
      state = next;
      await blockUntilReady(state);
      loss.dispose();
    },
    close: async () => {
      tree.dispose(state);
      tree.dispose(frozen);
      update.dispose();
      dispose(inputs);
    },
  };
}

function inference(layers, inputs) {
  const run = jit(apply);
  return {
    step: async (index) => {
      const logits = run(tree.ref(layers), inputs[index].x.ref);
      await logits.data();
    },
    close: async () => {
      tree.dispose(layers);
      run.dispose();
      dispose(inputs);
    },
  };
}

function dispose(inputs) {
  for (const { x, y } of inputs) {
    x.dispose();
    y.dispose();
  }
}
