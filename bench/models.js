// Models with random weights that several benches share.
import { createModel, createRandom, float, graphBuilder, tensor } from "../dist/index.js";

const [width, heads, positions] = [768, 12, 1024];

/** GPT-2 as its exports have it (Radford et al. 2019): pre-norm blocks, tanh GELU, tied embeddings. */
export function gpt2(layers, vocabulary) {
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

/** Three convolutions with ReLU, of 32, 64 and 64 channels, the last two with stride 2, and a head: image [batch, 1, 28, 28]. */
export function cnn() {
  const random = createRandom(1);
  const g = graphBuilder({ name: "cnn", opset: 18 });
  const draw = (name, dims) => {
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => 0.1 * (random.uniform() - 0.5));
    return g.initializer(name, tensor("float32", dims, data));
  };
  let x = g.input("image", "float32", ["batch", 1, 28, 28]);
  for (const [index, [from, to, stride]] of [
    [1, 32, 1],
    [32, 64, 2],
    [64, 64, 2],
  ].entries()) {
    const name = `conv${index + 1}`;
    const inputs = [x, draw(`${name}.weight`, [to, from, 3, 3]), draw(`${name}.bias`, [to])];
    const conv = g.op("Conv", inputs, { pads: [1, 1, 1, 1], strides: [stride, stride] }, { name: `/${name}/Conv` });
    x = g.op("Relu", [conv]);
  }
  const head = [g.op("Flatten", [x]), draw("head.weight", [10, 64 * 49]), draw("head.bias", [10])];
  g.output(g.op("Gemm", head, { transB: 1 }, { name: "/head/Gemm", output: "logits" }), "float32", ["batch", 10]);
  return createModel(g.build(), { opset: 18 });
}
