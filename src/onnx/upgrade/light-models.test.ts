// The nine networks that the ONNX project publishes with computed weights (operator set 9): read, written back, upgraded,
// and run before and after where that is quick.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { AdaptedModel } from "../../lora/adapted.ts";
import { attachLora } from "../../lora/attach.ts";
import { disabledTensors, initAdapter } from "../../lora/init.ts";
import { openSession, type Tensors } from "../../runtime/session.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { checkModel } from "../check.ts";
import type { Model } from "../model.ts";
import { readModel } from "../read.ts";
import { sites } from "../sites.ts";
import { writeModel } from "../write.ts";
import { upgradeModel } from "./index.ts";

const folder = new URL("../../../../shared/models/onnx-light/", import.meta.url);
const isThere = existsSync(folder);
const names = isThere ? readdirSync(folder).filter((name) => name.endsWith(".onnx")) : [];

/** Quick to run, with BatchNormalization, Dropout, Softmax and grouped Convs between them. */
const quick = ["light_shufflenet.onnx", "light_squeezenet.onnx"];

const load = (name: string): Model => readModel(new Uint8Array(readFileSync(new URL(name, folder))), name);

/** LoRA on every Conv and Gemm, of the least rank from 2 on that its groups divide. */
function everywhere(model: Model): AdaptedModel {
  const grouped = sites(model).filter(({ groups }) => groups > 2);
  const rankPattern = Object.fromEntries(grouped.map(({ modulePath, groups }) => [modulePath, groups]));
  return attachLora(model, { r: 2, targetModules: ".*", rankPattern });
}

/** The first output; the weights are all alike, so that only the input makes a difference. */
async function run(model: Model, parameters: Tensors = new Map()): Promise<Tensor> {
  const session = await openSession(model, { threads: 1 });
  const x = tensor(
    "float32",
    [1, 3, 224, 224],
    Float32Array.from({ length: 3 * 224 * 224 }, (_, i) => Math.sin(i)),
  );
  try {
    const input = session.inputs.find((name) => name.includes("data"))!;
    const feeds = new Map<string, Tensor>([...parameters, [input, x]]);
    return (await session.run(feeds)).values().next().value!;
  } finally {
    await session.dispose();
  }
}

describe.skipIf(!isThere)(
  `the light models${isThere ? "" : " (skipped: ../shared/models/onnx-light is not there)"}`,
  () => {
    it("are nine", () => {
      expect(names.length).toBe(9);
    });

    it.each(names)("%s reads, is written back as it was, and is well formed in operator set 18", (name) => {
      const model = load(name);
      expect(readModel(writeModel(model))).toEqual(model);
      const upgraded = upgradeModel(model);
      expect(checkModel(upgraded)).toEqual([]);
      expect(upgraded.graph.inputs.map(({ shape }) => shape)).toEqual([[1, 3, 224, 224]]);
      // Each Conv and Gemm is a site, called the same before and after.
      const count = model.graph.nodes.filter(({ op }) => op === "Conv" || op === "Gemm").length;
      const paths = sites(upgraded).map(({ modulePath }) => modulePath);
      expect([paths.length, new Set(paths).size]).toEqual([count, count]);
      expect(sites(model).map(({ modulePath }) => modulePath)).toEqual(paths);
      expect(everywhere(model).sites.length).toBe(count);
    });

    it.each(quick)("%s runs as before, also with adapters that are off or fresh", async (name) => {
      const model = load(name);
      const before = await run(model);
      const adapted = everywhere(model);
      const after = [
        await run(upgradeModel(model)),
        await run(adapted.model, disabledTensors(adapted)),
        await run(adapted.model, initAdapter(adapted).adapter.tensors),
      ];
      for (const { dims, data } of after) {
        expect(dims).toEqual(before.dims);
        const far = data.findIndex((value, index) => {
          const expected = Number(before.data[index]);
          return !(Math.abs(Number(value) - expected) <= 1e-6 * (1 + Math.abs(expected)));
        });
        expect(far).toBe(-1);
      }
    });
  },
);
