// The memory estimate against what is measured: node bench/memory.js. Each case trains a few steps in a process of its own, whose
// largest resident memory is what counts; `--case NAME` is such a process.
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { adam, attachAll, attachLora, causalLm, crossEntropy, initAdapter, tensor } from "../dist/index.js";
import { currentWeights } from "../dist/lora/full.js";
import { studyNetwork } from "../dist/study/network.js";
import { estimateMemory } from "../dist/train/memory.js";
import { compileStep, loadParameters } from "../dist/train/step.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { cnn, gpt2 } from "./models.js";

const lora = (targetModules) => (model) => attachLora(model, { r: 8, loraAlpha: 16, targetModules });
const tokens = (batch, length) => tensor("int64", [batch, length], new BigInt64Array(batch * length).fill(7n));
const classes = (batch) => tensor("int64", [batch], new BigInt64Array(batch));
const floats = (...dims) => tensor("float32", dims, new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(0.1));
const mlp = (attach, batch) => ({
  model: () => studyNetwork("linear", 0),
  attach,
  batch: () => ({ inputs: { x: floats(batch, 784) }, labels: classes(batch) }),
});
const images = (attach, batch) => ({
  model: cnn,
  attach,
  batch: () => ({ inputs: { image: floats(batch, 1, 28, 28) }, labels: classes(batch) }),
});
const text = (layers, batch, length, again = false) => ({
  model: () => gpt2(layers, 8000),
  attach: lora(["c_attn"]),
  loss: causalLm,
  again,
  batch: () => ({ inputs: { input_ids: tokens(batch, length) }, labels: tokens(batch, length) }),
});

const cases = {
  "MLP, LoRA, batch 64": mlp(lora(["fc1", "fc2", "fc3"]), 64),
  "MLP, LoRA, batch 1024": mlp(lora(["fc1", "fc2", "fc3"]), 1024),
  "MLP, full, batch 64": mlp(attachAll, 64),
  "CNN, full, batch 64": images(attachAll, 64),
  "CNN, LoRA, batch 256": images(lora("all-linear"), 256),
  "GPT-2, 2 layers, 4 x 128": text(2, 4, 128),
  "GPT-2, 4 layers, 4 x 128": text(4, 4, 128),
  "GPT-2, 4 layers, 8 x 256": text(4, 8, 256),
  "GPT-2, 4 layers, 8 x 256, activations again": text(4, 8, 256, true),
};

const { values } = parseArgs({ options: { case: { type: "string" }, "estimate-only": { type: "boolean" } } });
if (values.case === undefined) {
  const mib = (bytes) => (bytes / 2 ** 20).toFixed(0).padStart(6);
  console.log("    process weights activations trained batches total | measured MiB");
  for (const name of Object.keys(cases)) {
    const own = execFileSync(process.execPath, [fileURLToPath(import.meta.url), "--case", name], { encoding: "utf8" });
    const { estimate, measured, seconds } = JSON.parse(own);
    const { process: base, weights, activations, trained, batches, total } = estimate;
    const parts = [base, weights, activations, trained, batches, total].map(mib).join(" ");
    const share = (100 * (total / measured - 1)).toFixed(0);
    console.log(`${parts} | ${mib(measured)}  ${share.padStart(4)} %  ${seconds.toFixed(2)} s  ${name}`);
  }
} else {
  const { model, attach, batch, loss = crossEntropy, again: checkpointActivations = false } = cases[values.case];
  const adapted = attach(model());
  const given = batch();
  const optimizer = adam();
  const graph = buildStepGraph(adapted, loss(), { checkpointActivations });
  const feeds = { ...given.inputs, [graph.labels]: given.labels };
  const estimate = estimateMemory(graph.model, { feeds, parameters: adapted.parameters, optimizer });
  if (values["estimate-only"]) {
    console.log(JSON.stringify({ estimate, measured: null, seconds: null }));
    process.exit();
  }
  const step = await compileStep(adapted, loss(), optimizer, { checkpointActivations });
  loadParameters(
    step,
    adapted,
    adapted.config === null ? currentWeights(adapted) : initAdapter(adapted).adapter.tensors,
  );
  const state = optimizer.init(step.parameters, step.arena);
  let seconds = Number.POSITIVE_INFINITY;
  for (let index = 0; index < 4; index++) {
    const begun = performance.now();
    await step.run(given);
    optimizer.update(step.parameters, step.gradients, state, 1e-4);
    seconds = Math.min(seconds, (performance.now() - begun) / 1000);
  }
  console.log(JSON.stringify({ estimate, measured: process.resourceUsage().maxRSS * 1024, seconds }));
}
