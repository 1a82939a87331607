// Models of 16 bits against PyTorch: scripts/fixtures/half.py exports them, and computes the same rounded weights in float32.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { attachLora } from "../lora/attach.ts";
import { computedInFloat32 } from "../onnx/float32.ts";
import { producers } from "../onnx/graph.ts";
import { float16ToFloat32, toHalf } from "../onnx/half.ts";
import { readModel } from "../onnx/read.ts";
import { sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import { toBytes } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { crossEntropy } from "./losses.ts";
import { buildStepGraph } from "./step-graph.ts";
import { byKey, fixtureAnswers, fixtureModel, worstShare } from "./testing/answers.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const loss = crossEntropy();
const config = { r: 2, loraAlpha: 3, targetModules: ["emb", "up", "down"] };

describe.each([
  ["float16", "half/half.legacy.onnx"],
  ["bfloat16", "half/bfloat16.onnx"],
] as const)("a model in %s", (type, file) => {
  const model = fixtureModel(file);
  const answers = fixtureAnswers(`half/${type}.safetensors`);
  const batch = { inputs: { ids: answers.get("input.ids")! }, labels: answers.get("labels")! };

  it("gives PyTorch's loss, logits and gradients of float32", async () => {
    const adapted = attachLora(model, config);
    expect(adapted.sites.map(({ site }) => site.modulePath)).toEqual(["emb", "up", "down"]);
    const result = await valueAndGrad(adapted, { tensors: byKey(answers, adapted, "lora") }, batch, loss);
    await adapted.dispose();
    expect(Math.abs(result.loss - Number(answers.get("loss")!.data[0]))).toBeLessThan(1e-5);
    for (const [key, expected] of byKey(answers, adapted, "grad")) {
      expect(result.grads.get(key)!.type).toBe("float32");
      expect(worstShare(result.grads.get(key), expected), key).toBeLessThanOrEqual(1);
    }
    const logits = result.outputs.get("logits")!;
    if (type === "bfloat16")
      expect([logits.type, worstShare(logits, answers.get("logits")!) <= 1]).toEqual(["float32", true]);
    else {
      // The graph's output is what it was: rounded at the very end.
      expect(logits.type).toBe("float16");
      expect([...(logits.data as Uint16Array)]).toEqual([
        ...toHalf("float16", answers.get("logits")!.data as Float32Array),
      ]);
    }
  });

  it("keeps its weights in their type, in the training graph too, widened at each use", () => {
    const adapted = attachLora(model, config);
    const { graph } = buildStepGraph(adapted, loss).model;
    const stored = [...graph.initializers].filter(([, value]) => value.type === type);
    expect(stored.length).toBeGreaterThan(4);
    for (const [name, { bytes }] of stored) expect(bytes).toBe(model.graph.initializers.get(name)!.bytes);
    const large = [...graph.initializers.values()].filter((value) => value.type === "float32");
    expect(Math.max(...large.map(({ bytes }) => bytes.length))).toBeLessThan(64);
    // Those of the two products: forward, and backward down to the embedding.
    const made = producers(graph);
    const matrices = graph.nodes.flatMap(({ op, inputs }) => {
      const waited = op === "Cast" ? made.get(inputs[0]!) : undefined;
      const weight = waited?.op === "Reshape" ? waited.inputs[0]! : "";
      return graph.initializers.get(weight)?.dims.length === 2 ? [weight] : [];
    });
    expect(matrices).toHaveLength(4);
    expect(new Set(matrices).size).toBe(2);
    expect(sites(model).map(({ modulePath }) => modulePath)).toEqual(["emb", "up", "down"]);
  });

  it("is merged in its own type, rounded once", async () => {
    const adapted = attachLora(model, config);
    const adapter = { config: adapted.config!, tensors: byKey(answers, adapted, "lora") };
    const merged = readModel(writeModel(merge(model, adapter)));
    for (const site of sites(merged).filter(({ modulePath }) => modulePath !== "emb")) {
      const expected = answers.get(`merged.${site.modulePath}`)!;
      const weight = merged.graph.initializers.get(site.weight)!;
      expect(weight.type).toBe(type);
      const transposed =
        site.layout === "in,out" ? turned(expected.data as Uint16Array, site.outFeatures) : expected.data;
      expect(weight.bytes).toEqual(toBytes(transposed));
    }
    if (type === "float16") {
      const session = await createSession(computedInFloat32(merged));
      const logits = (await session.run(batch.inputs)).get("logits")!;
      await session.dispose();
      const values = float16ToFloat32(logits.data as Uint16Array);
      values.forEach((value, at) => {
        expect(Math.abs(value - Number(answers.get("logits")!.data[at]))).toBeLessThan(5e-3);
      });
    }
  });
});

/** A matrix of that many rows, transposed. */
function turned(values: Uint16Array, rows: number): Uint16Array {
  const columns = values.length / rows;
  return Uint16Array.from(values, (_, at) => values[(at % rows) * columns + Math.floor(at / rows)]!);
}

it("a model of float32 stays the object that it is", () => {
  const model = fixtureModel("golden/mlp/model.onnx");
  expect(computedInFloat32(model)).toBe(model);
});
