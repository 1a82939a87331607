// How long it takes until a step can run: node bench/sessions.js [--rounds 5]. Building the training graph and creating its session,
// beside a plain session of the same base; medians over interleaved rounds. The study's network, and GPT-2's shape with random
// weights (--layers 4, --vocabulary 8000: as bench/models.js has it).
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { adam, attachAll, attachLora, causalLm, createSession, crossEntropy } from "../dist/index.js";
import { studyNetwork } from "../dist/study/network.js";
import { compileStep } from "../dist/train/step.js";
import { buildStepGraph } from "../dist/train/step-graph.js";

import { roundOrder, statistics } from "./harness.js";
import { gpt2 } from "./models.js";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    layers: { type: "string", default: "4" },
    vocabulary: { type: "string", default: "8000" },
  },
});
const threads = availableParallelism();
const [layers, vocabulary] = [Number(values.layers), Number(values.vocabulary)];
const study = studyNetwork("linear", 0);
const decoder = gpt2(layers, vocabulary);
const decoderName = `GPT-2's shape, ${layers} layers, vocabulary ${vocabulary}`;
const lora = (model, targetModules) => attachLora(model, { r: 8, loraAlpha: 16, targetModules });
const compile = async (adapted, loss) => (await compileStep(adapted, loss, adam(), { threads })).dispose();
const open = async (model) => (await createSession(model, { threads })).dispose();

const cases = [
  ["the study's network: plain session", () => open(study)],
  ["the study's network: LoRA graph", () => void buildStepGraph(lora(study, "all-linear"), crossEntropy())],
  ["the study's network: LoRA graph and session", () => compile(lora(study, "all-linear"), crossEntropy())],
  ["the study's network: all weights, graph and session", () => compile(attachAll(study), crossEntropy())],
  [`${decoderName}: plain session`, () => open(decoder)],
  [`${decoderName}: LoRA graph`, () => void buildStepGraph(lora(decoder, ["c_attn"]), causalLm())],
  [`${decoderName}: LoRA graph and session`, () => compile(lora(decoder, ["c_attn"]), causalLm())],
].map(([name, work]) => ({ name, work, times: [] }));

for (let round = -1; round < Number(values.rounds); round++)
  for (const { work, times } of roundOrder(cases, round + 1)) {
    const begun = performance.now();
    await work();
    if (round >= 0) times.push(performance.now() - begun);
  }
console.log("| until a step can run | ms |\n|---|---|");
for (const { name, times } of cases) console.log(`| ${name} | ${statistics(times).median.toFixed(1)} |`);
