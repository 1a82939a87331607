import { describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { attachAll } from "../lora/full.ts";
import { twoLayers } from "../lora/testing/models.ts";
import { openSession } from "../runtime/session.ts";
import { tensor, zeros } from "../tensor.ts";
import { crossEntropy } from "./losses.ts";
import { compileStep } from "./step.ts";
import { buildStepGraph } from "./step-graph.ts";
import { stepTraffic } from "./traffic.ts";

// fc1 is [5, 3] and fc2 [4, 5], each with a bias.
const batch = { inputs: { x: zeros([2, 3]) }, labels: tensor("int64", [2], BigInt64Array.of(0n, 3n)) };
const [inputBytes, labelBytes] = [2 * 3 * 4, 2 * 8];
const weights = 5 * 3 + 5 + 4 * 5 + 4;

describe("stepTraffic", () => {
  it("is the adapter and the batch there, the loss and the gradients back; the weights stay", () => {
    const adapter = 2 * (3 + 5) + 2 * (5 + 4);
    const { uploaded, downloaded, resident } = stepTraffic(attachLora(twoLayers(), { r: 2 }), batch);
    expect([uploaded, downloaded]).toEqual([4 * adapter + inputBytes + labelBytes, 4 * adapter + 4]);
    expect(resident).toBeGreaterThanOrEqual(4 * weights);
  });

  it("is all weights both ways when all are trained", () => {
    const { uploaded, downloaded } = stepTraffic(attachAll(twoLayers()), batch);
    expect([uploaded, downloaded]).toEqual([4 * weights + inputBytes + labelBytes, 4 * weights + 4]);
  });

  it("is what the step's session takes and gives", async () => {
    const adapted = attachLora(twoLayers(), { r: 2 });
    const graph = buildStepGraph(adapted, crossEntropy());
    const session = await openSession(graph.model, { threads: 1 });
    const step = await compileStep(adapted, crossEntropy(), null, { threads: 1 });
    try {
      const parameters = [...step.parameters.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
      expect([...session.inputs].sort()).toEqual([...step.parameters.keys(), "labels", "x"].sort());
      expect(stepTraffic(adapted, batch).uploaded).toBe(parameters + inputBytes + labelBytes);
      expect(Number.isFinite(await step.run(batch))).toBe(true);
    } finally {
      await step.dispose();
      await session.dispose();
    }
  });
});
