// lowrank as a contender: the study's network with a linear head, through the same step that `train` runs.
import { availableParallelism } from "node:os";
import {
  adam,
  attachAll,
  attachLora,
  createModel,
  createSession,
  crossEntropy,
  graphBuilder,
  initAdapter,
  tensor,
} from "../dist/index.js";
import { currentWeights } from "../dist/lora/full.js";
import { lowrankVersion } from "../dist/runs/environment.js";
import { studyNetwork } from "../dist/study/network.js";
import { compileStep, loadParameters } from "../dist/train/step.js";

const modules = ["fc1", "fc2", "fc3"];
/** Batches that the steps take in turn, so that no input stays in a cache that training would not leave it in. */
const batchCount = 8;
const learningRate = 1e-4;

/** @returns {import("./harness.js").Contender} */
export function lowrankContender(threads = availableParallelism()) {
  const model = studyNetwork("linear", 0);
  let current = null;
  return {
    name: "lowrank",
    version: `lowrank ${lowrankVersion()}, ONNX Runtime on the CPU, ${threads} threads`,
    supports: () => true,
    prepare: async (benchCase) => {
      await current?.close();
      current =
        benchCase.kind === "forward"
          ? await forward(model, benchCase, threads)
          : await training(model, benchCase, threads);
      return { threads };
    },
    run: async (_, steps) => {
      const times = [];
      for (let step = 0; step < steps; step++) {
        const begun = performance.now();
        await current.step(step % batchCount);
        times.push(performance.now() - begun);
      }
      return times;
    },
    peak: () => peak(threads),
    close: async () => current?.close(),
  };
}

/** The best of a few products of square matrices. Rows of 2^n bytes fall on the same cache sets, so that another size may be the faster. */
export async function peak(threads) {
  const [even, odd] = [await productPeak(2048, threads), await productPeak(1968, threads)];
  return odd.gflops > even.gflops ? odd : even;
}

async function productPeak(size, threads) {
  const g = graphBuilder({ opset: 18 });
  const matrix = () => tensor("float32", [size, size], Float32Array.from({ length: size * size }, Math.random));
  const [a, b] = [g.input("a", "float32", [size, size]), g.initializer("b", matrix())];
  g.output(g.op("ReduceMax", [g.op("MatMul", [a, b])], {}, { output: "c" }), "float32");
  const session = await createSession(createModel(g.build(), { opset: g.opset }), { threads });
  const inputs = { a: matrix() };
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 6; round++) {
    const begun = performance.now();
    await session.run(inputs);
    best = Math.min(best, performance.now() - begun);
  }
  await session.dispose();
  return { gflops: (2 * size ** 3) / best / 1e6, product: `MatMul ${size}^3 float32`, threads };
}

async function training(model, { kind, batch, r }, threads) {
  const adapted = kind === "lora" ? attachLora(model, { r, loraAlpha: r, targetModules: modules }) : attachAll(model);
  const optimizer = adam();
  const compiled = await compileStep(adapted, crossEntropy(), optimizer, { threads });
  const start = kind === "lora" ? initAdapter(adapted).adapter.tensors : currentWeights(adapted);
  loadParameters(compiled, adapted, start);
  const state = optimizer.init(compiled.parameters, compiled.arena);
  const batches = Array.from({ length: batchCount }, () => randomBatch(batch));
  return {
    step: async (index) => {
      await compiled.run(batches[index]);
      optimizer.update(compiled.parameters, compiled.gradients, state, learningRate);
    },
    close: () => compiled.dispose(),
  };
}

async function forward(model, { batch }, threads) {
  const session = await createSession(model, { threads });
  const batches = Array.from({ length: batchCount }, () => randomBatch(batch).inputs);
  return { step: (index) => session.run(batches[index]), close: () => session.dispose() };
}

function randomBatch(size) {
  const pixels = Float32Array.from({ length: size * 784 }, () => 2 * Math.random() - 0.4);
  const digits = BigInt64Array.from({ length: size }, () => BigInt(Math.floor(Math.random() * 10)));
  return { inputs: { x: tensor("float32", [size, 784], pixels) }, labels: tensor("int64", [size], digits) };
}
