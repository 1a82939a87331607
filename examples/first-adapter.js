// A frozen model, a new domain, a small adapter: train it, save it as PEFT files, merge it, run it.
//
// The model is made here so that the example needs nothing else; any ONNX file read with readModel goes the same way.
import {
  attachLora,
  createModel,
  createRandom,
  createSession,
  graphBuilder,
  initAdapter,
  merge,
  readAdapter,
  tensor,
  train,
  writeAdapter,
  writeModel,
} from "lowrank";

const random = createRandom(7);
const normal = (count, deviation) => Float32Array.from({ length: count }, () => random.normal() * deviation);

// The base: 8 features -> 32 -> 3 classes, with PyTorch's names for its weights.
const g = graphBuilder({ name: "base", opset: 17 });
let value = g.input("x", "float32", ["batch", 8]);
for (const [index, [from, to]] of [
  [8, 32],
  [32, 3],
].entries()) {
  const weight = g.initializer(
    `fc${index + 1}.weight`,
    tensor("float32", [to, from], normal(to * from, 1 / Math.sqrt(from))),
  );
  const bias = g.initializer(`fc${index + 1}.bias`, tensor("float32", [to], new Float32Array(to)));
  value = g.op("Gemm", [value, weight, bias], { transB: 1 }, { name: `/fc${index + 1}/Gemm` });
  if (index === 0) value = g.op("Relu", [value]);
}
g.output(value, "float32", ["batch", 3]);
const base = createModel(g.build(), { opset: 17 });

// The domain: the class is the largest of the first three features, which the base knows nothing about.
const rows = 512;
const x = normal(rows * 8, 1);
const labels = BigInt64Array.from({ length: rows }, (_, row) => {
  const [a, b, c] = x.subarray(row * 8, row * 8 + 3);
  return a >= b && a >= c ? 0n : b >= c ? 1n : 2n;
});
function* batches(size, epochs) {
  for (let epoch = 0; epoch < epochs; epoch++) {
    for (let start = 0; start < rows; start += size) {
      yield {
        inputs: { x: tensor("float32", [size, 8], x.subarray(start * 8, (start + size) * 8)) },
        labels: tensor("int64", [size], labels.subarray(start, start + size)),
      };
    }
  }
}

const adapted = attachLora(base, { r: 4, loraAlpha: 8, targetModules: ["fc1", "fc2"] });
const { adapter, history } = await train(adapted, batches(32, 60), {
  ...initAdapter(adapted, { seed: 1 }),
  learningRate: 0.01,
});
console.log(
  `loss ${history.losses[0].toFixed(3)} -> ${history.losses.at(-1).toFixed(3)} in ${history.losses.length} steps`,
);

// One session runs the base and any adapter; a file goes out and comes back unchanged.
const files = writeAdapter(adapter);
console.log([...files].map(([name, bytes]) => `${name}: ${bytes.length} bytes`).join(", "));
const session = await createSession(adapted);
const inputs = { x: tensor("float32", [rows, 8], x) };
const accuracy = (output) => {
  const logits = output.values().next().value.data;
  let right = 0;
  for (let row = 0; row < rows; row++) {
    const scores = logits.subarray(row * 3, row * 3 + 3);
    if (scores.indexOf(Math.max(...scores)) === Number(labels[row])) right++;
  }
  return right / rows;
};
const off = accuracy(await session.run(inputs));
const on = accuracy(await session.run(inputs, { adapter: readAdapter(files) }));
console.log(`accuracy with the adapter off ${off.toFixed(3)}, on ${on.toFixed(3)}`);

// Merged, it is a plain model again, for any runtime.
const merged = await createSession(merge(base, adapter));
console.log(
  `accuracy merged ${accuracy(await merged.run(inputs)).toFixed(3)}, ${writeModel(merge(base, adapter)).length} bytes`,
);
if (!(on > 0.9 && on > off)) throw new Error("the adapter learnt nothing");
await Promise.all([session.dispose(), merged.dispose(), adapted.dispose()]);
