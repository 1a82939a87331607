// The nine networks that the ONNX project publishes with computed weights: LoRA on every Conv and Gemm, and one backward pass
// through the whole of each. Their weights are all alike, so that values say little; that every gradient is finite says
// that no rule divides by what may be zero.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { readModel } from "../onnx/read.ts";
import { sites } from "../onnx/sites.ts";
import { createRandom } from "../random.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";
import { meanSquaredError } from "./losses.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const folder = new URL("../../../shared/models/onnx-light/", import.meta.url);
const isThere = existsSync(folder);
const names = isThere ? readdirSync(folder).filter((name) => name.endsWith(".onnx")) : [];

describe.skipIf(!isThere)(
  `gradients of the light models${isThere ? "" : " (skipped: ../shared/models/onnx-light is not there)"}`,
  () => {
    it.each(names)("%s: those of every Conv and Gemm are finite", { timeout: 60_000 }, async (name) => {
      const model = readModel(new Uint8Array(readFileSync(new URL(name, folder))), name);
      // Where there are groups, ranks that they divide.
      const grouped = sites(model).filter(({ groups }) => groups > 2);
      const rankPattern = Object.fromEntries(grouped.map(({ modulePath, groups }) => [modulePath, groups]));
      const adapted = attachLora(model, { r: 2, targetModules: ".*", rankPattern });
      const random = createRandom(1, name);
      const normal = (dims: readonly number[], deviation: number): Tensor =>
        tensor(
          "float32",
          dims,
          Float32Array.from({ length: elementCount(dims) }, () => deviation * random.normal()),
        );
      const tensors = new Map(adapted.parameters.map(({ key, dims }) => [key, normal(dims, 0.01)]));
      const [input] = adapted.model.graph.inputs;
      const [output] = adapted.model.graph.outputs;
      const dims = output!.shape!.map((dim) => (typeof dim === "number" ? dim : 1));
      const batch = { inputs: { [input!.name]: normal([1, 3, 224, 224], 1) }, labels: normal(dims, 1) };
      const { loss, grads } = await valueAndGrad(adapted, { tensors }, batch, meanSquaredError());
      await adapted.dispose();
      expect(Number.isFinite(loss)).toBe(true);
      const count = model.graph.nodes.filter(({ op }) => op === "Conv" || op === "Gemm").length;
      expect(grads.size).toBe(2 * count);
      const faulty = [...grads].filter(([, { data }]) => data.some((value) => !Number.isFinite(Number(value))));
      expect(faulty.map(([key]) => key)).toEqual([]);
    });
  },
);
