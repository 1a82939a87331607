// Loss and gradients for your own loop: plain gradient descent on an adapter, in a few lines.
import { readFile } from "node:fs/promises";
import { attachLora, crossEntropy, initAdapter, readModel, tensor, valueAndGrad } from "lowrank";

const model = readModel(await readFile(new URL("../test/fixtures/golden/mlp/model.onnx", import.meta.url)), "mlp");
const adapted = attachLora(model, { r: 2, loraAlpha: 4, targetModules: ["fc1", "fc2", "fc3"] });
const { adapter } = initAdapter(adapted);

// Nine examples of 20 features, of the five classes in turn.
const x = tensor(
  "float32",
  [9, 20],
  Float32Array.from({ length: 180 }, (_, index) => Math.sin(index)),
);
const labels = tensor(
  "int64",
  [9],
  BigInt64Array.from({ length: 9 }, (_, row) => BigInt(row % 5)),
);

const loss = crossEntropy();
const seen = [];
for (let step = 0; step < 500; step++) {
  const result = await valueAndGrad(adapted, adapter, { inputs: { x }, labels }, loss);
  seen.push(result.loss);
  for (const [key, gradient] of result.grads) {
    const values = adapter.tensors.get(key).data;
    for (let index = 0; index < values.length; index++) values[index] -= 0.05 * gradient.data[index];
  }
}
console.log(`loss ${seen[0].toFixed(3)} -> ${seen.at(-1).toFixed(3)}`);
if (!(seen.at(-1) < 0.6 * seen[0])) throw new Error("the loss did not fall");
await adapted.dispose();
