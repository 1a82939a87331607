// A LoRA step on GPT-2's shape with random weights: node bench/gpt2.js [--layers 12] [--vocabulary 50257] [--batch 4] [--tokens 128] [--steps 5]
// Prints what building the graph, creating the session and a step take, and the memory at its peak. bench/gpt2_torch.py does the same work in
// PyTorch with transformers and PEFT.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { adam, attachLora, causalLm, createRandom, initAdapter, tensor } from "../dist/index.js";
import { compileStep, loadParameters } from "../dist/train/step.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { gpt2 } from "./models.js";

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "12" },
    vocabulary: { type: "string", default: "50257" },
    batch: { type: "string", default: "4" },
    tokens: { type: "string", default: "128" },
    steps: { type: "string", default: "5" },
    top: { type: "boolean", default: false },
    again: { type: "boolean", default: false },
  },
});
const [layers, vocabulary, batch, tokens, steps] = ["layers", "vocabulary", "batch", "tokens", "steps"].map((name) =>
  Number(values[name]),
);
const seconds = (since) => (performance.now() - since) / 1000;
const model = gpt2(layers, vocabulary);
const target = values.top ? [`h.${layers - 1}.attn.c_attn`] : ["c_attn"];
let begun = performance.now();
const adapted = attachLora(model, { r: 8, loraAlpha: 16, targetModules: target });
// --again: activations are computed again for the backward pass.
const checkpointActivations = values.again;
const built = buildStepGraph(adapted, causalLm(), { checkpointActivations });
console.log(`graph: ${built.model.graph.nodes.length} nodes, built in ${(1000 * seconds(begun)).toFixed(0)} ms`);
const optimizer = adam();
begun = performance.now();
const step = await compileStep(adapted, causalLm(), optimizer, {
  threads: availableParallelism(),
  checkpointActivations,
});
console.log(`session: ${seconds(begun).toFixed(2)} s`);
loadParameters(step, adapted, initAdapter(adapted).adapter.tensors);
const state = optimizer.init(step.parameters, step.arena);
const random = createRandom(2);
const ids = tensor(
  "int64",
  [batch, tokens],
  BigInt64Array.from({ length: batch * tokens }, () => BigInt(random.integer(vocabulary))),
);
const times = [];
for (let index = 0; index < steps; index++) {
  begun = performance.now();
  const loss = await step.run({ inputs: { input_ids: ids }, labels: ids });
  optimizer.update(step.parameters, step.gradients, state, 1e-3);
  times.push(seconds(begun));
  console.log(`step ${index + 1}: ${times.at(-1).toFixed(3)} s, loss ${loss.toFixed(4)}`);
}
times.sort((a, b) => a - b);
console.log(
  `median ${times[steps >> 1].toFixed(3)} s; peak memory ${(process.resourceUsage().maxRSS / 2 ** 20).toFixed(2)} GiB`,
);
