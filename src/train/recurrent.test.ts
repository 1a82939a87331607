import { expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { gradcheck } from "./gradcheck.ts";
import { meanSquaredError } from "./losses.ts";
import { buildStepGraph } from "./step-graph.ts";

/** A layer on each side of a frozen LSTM, over sequences of any length. */
function sandwich() {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["steps", "batch", 3]);
  const h = g.op("MatMul", [x, g.initializer("in.weight", drawn("in", 3, 4))]);
  const weights = [g.initializer("w", drawn("w", 1, 20, 4)), g.initializer("r", drawn("r", 1, 20, 5))];
  const y = g.op("LSTM", [h, ...weights], { hidden_size: 5 });
  const flat = g.op("Squeeze", [y, g.constant("int64", [1])]);
  g.output(g.op("MatMul", [flat, g.initializer("out.weight", drawn("out", 5, 2))], {}, { output: "y" }), "float32", [
    "steps",
    "batch",
    2,
  ]);
  return createModel(g.build(), { opset: 18 });
}

it("a frozen LSTM passes gradients to the adapter below it", async () => {
  const adapted = attachLora(sandwich(), { r: 2, targetModules: ["in", "out"] });
  const { passed, rows } = await gradcheck(adapted, { x: drawn("x", 4, 2, 3) });
  await adapted.dispose();
  expect(rows.map(({ key }) => key)).toHaveLength(4);
  expect(passed).toBe(true);
});

it("and is not walked through when all adapters are behind it", () => {
  const { graph } = buildStepGraph(attachLora(sandwich(), { r: 2, targetModules: ["out"] }), meanSquaredError()).model;
  expect(graph.nodes.filter(({ op }) => op === "LSTM" || op === "Scan").map(({ op }) => op)).toEqual(["LSTM"]);
});
