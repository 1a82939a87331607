// A LoRA step on GPT-2's shape with random weights: node bench/gpt2.js [--layers 12] [--vocabulary 50257] [--batch 4] [--tokens 128] [--steps 5]
// Prints what building the graph, creating the session and a step take, and the memory at its peak. bench/gpt2_torch.py does the same work in
// PyTorch with transformers and PEFT.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import {
  adam,
  attachLora,
  causalLm,
  createModel,
  createRandom,
  float,
  graphBuilder,
  initAdapter,
  tensor,
} from "../dist/index.js";
import { compileStep, loadParameters } from "../dist/train/step.js";
import { buildStepGraph } from "../dist/train/step-graph.js";

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "12" },
    vocabulary: { type: "string", default: "50257" },
    batch: { type: "string", default: "4" },
    tokens: { type: "string", default: "128" },
    steps: { type: "string", default: "5" },
    top: { type: "boolean", default: false },
  },
});
const [layers, vocabulary, batch, tokens, steps] = ["layers", "vocabulary", "batch", "tokens", "steps"].map((name) =>
  Number(values[name]),
);
const [width, heads, positions] = [768, 12, 1024];

/** GPT-2 as its exports have it (Radford et al. 2019): pre-norm blocks, tanh GELU, tied embeddings. */
function gpt2() {
  const random = createRandom(1);
  const g = graphBuilder({ name: "gpt2", opset: 18 });
  const draw = (name, dims) => {
    const data = new Float32Array(dims.reduce((a, b) => a * b, 1));
    for (let index = 0; index < data.length; index++) data[index] = 0.04 * (random.uniform() - 0.5);
    return g.initializer(name, tensor("float32", dims, data));
  };
  const ones = (name) => g.initializer(name, tensor("float32", [width], new Float32Array(width).fill(1)));
  const norm = (x, name) =>
    g.op("LayerNormalization", [x, ones(`${name}.weight`), draw(`${name}.bias`, [width])], {
      axis: -1,
      epsilon: float(1e-5),
    });
  const linear = (x, name, from, to) =>
    g.op("Add", [g.op("MatMul", [x, draw(`${name}.weight`, [from, to])]), draw(`${name}.bias`, [to])]);
  const int64 = (list) => g.constant("int64", list);
  const split = (x) =>
    g.op("Transpose", [g.op("Reshape", [x, int64([0, 0, heads, width / heads])])], { perm: [0, 2, 1, 3] });

  const ids = g.input("input_ids", "int64", ["batch", "tokens"]);
  const wte = draw("transformer.wte.weight", [vocabulary, width]);
  const length = g.op("Gather", [g.op("Shape", [ids]), int64(1)], { axis: 0 });
  const range = g.op("Range", [int64(0), length, int64(1)]);
  const row = g.op("Unsqueeze", [range, int64([1])]);
  const future = g.op("Greater", [g.op("Unsqueeze", [range, int64([0])]), row]);
  let x = g.op("Add", [
    g.op("Gather", [wte, ids]),
    g.op("Gather", [draw("transformer.wpe.weight", [positions, width]), range]),
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const name = `transformer.h.${layer}`;
    const qkv = linear(norm(x, `${name}.ln_1`), `${name}.attn.c_attn`, width, 3 * width);
    const [q, k, v] = g.ops("Split", [qkv, int64([width, width, width])], 3, { axis: 2 });
    const scores = g.op("MatMul", [
      split(q),
      g.op("Transpose", [g.op("Reshape", [k, int64([0, 0, heads, width / heads])])], { perm: [0, 2, 3, 1] }),
    ]);
    const scaled = g.op("Mul", [scores, g.constant("float32", 1 / Math.sqrt(width / heads))]);
    const weights = g.op("Softmax", [g.op("Where", [future, g.constant("float32", -3.4e38), scaled])], { axis: -1 });
    const mixed = g.op("Reshape", [
      g.op("Transpose", [g.op("MatMul", [weights, split(v)])], { perm: [0, 2, 1, 3] }),
      int64([0, 0, width]),
    ]);
    x = g.op("Add", [x, linear(mixed, `${name}.attn.c_proj`, width, width)]);
    const hidden = linear(norm(x, `${name}.ln_2`), `${name}.mlp.c_fc`, width, 4 * width);
    const cube = g.op("Mul", [g.op("Mul", [hidden, hidden]), hidden]);
    const inner = g.op("Mul", [
      g.op("Add", [hidden, g.op("Mul", [cube, g.constant("float32", 0.044715)])]),
      g.constant("float32", Math.sqrt(2 / Math.PI)),
    ]);
    const gelu = g.op("Mul", [
      g.op("Mul", [hidden, g.constant("float32", 0.5)]),
      g.op("Add", [g.op("Tanh", [inner]), g.constant("float32", 1)]),
    ]);
    x = g.op("Add", [x, linear(gelu, `${name}.mlp.c_proj`, 4 * width, width)]);
  }
  const head = g.op("Transpose", [wte], { perm: [1, 0] });
  g.output(g.op("MatMul", [norm(x, "transformer.ln_f"), head], {}, { output: "logits" }), "float32", [
    "batch",
    "tokens",
    vocabulary,
  ]);
  return createModel(g.build(), { opset: g.opset });
}

const seconds = (since) => (performance.now() - since) / 1000;
const model = gpt2();
const target = values.top ? [`h.${layers - 1}.attn.c_attn`] : ["c_attn"];
let begun = performance.now();
const adapted = attachLora(model, { r: 8, loraAlpha: 16, targetModules: target });
const built = buildStepGraph(adapted, causalLm());
console.log(`graph: ${built.model.graph.nodes.length} nodes, built in ${(1000 * seconds(begun)).toFixed(0)} ms`);
const optimizer = adam();
begun = performance.now();
const step = await compileStep(adapted, causalLm(), optimizer, { threads: availableParallelism() });
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
