// `lowrank summary`: the torchsummary table of any ONNX file, with and without an adapter's columns.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createModel, graphBuilder, tensor, writeModel } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { goldenCases } from "./support/golden.ts";

const work = temporaryFolder();
const summary = (...args: string[]): Promise<Ended> => lowrank(["summary", ...args], { cwd: work });

/** y = Sigmoid(x W + b) * 2, W [300, 200]: a product and its bias as two nodes, and a scalar, which is no weight. */
function madeHere(): Uint8Array {
  const g = graphBuilder({ name: "made", opset: 17 });
  const x = g.input("x", "float32", ["batch", 300]);
  const weight = g.initializer("body.proj.weight", tensor("float32", [300, 200], new Float32Array(60_000).fill(0.01)));
  const bias = g.initializer("body.proj.bias", tensor("float32", [200], new Float32Array(200)));
  const product = g.op("MatMul", [x, weight], {}, { name: "/body/proj/MatMul" });
  const sum = g.op("Add", [product, bias], {}, { name: "/body/proj/Add" });
  const scale = g.initializer("scale", tensor("float32", [], Float32Array.of(2)));
  const gate = g.op("Sigmoid", [sum], {}, { name: "/gate" });
  g.output(g.op("Mul", [gate, scale], {}, { name: "/scale", output: "y" }), "float32", ["batch", 200]);
  return writeModel(createModel(g.build(), { opset: 17 }));
}

beforeAll(() => {
  writeFileSync(join(work, "made.onnx"), madeHere());
  writeFileSync(join(work, "notes.onnx"), "these are notes, not a model\n");
  const golden = readFileSync(join(goldenCases, "mlp", "model.onnx"));
  writeFileSync(join(work, "half.onnx"), golden.subarray(0, golden.length >> 1));
  writeFileSync(join(work, "empty.onnx"), "");
  mkdirSync(join(work, "folder"));
});

describe("the table", () => {
  it("of a golden model", async () => {
    expect(await summary(join(goldenCases, "mlp", "model.onnx"))).toEqual({
      code: 0,
      stderr: "",
      stdout: `Layer (type)  Output shape  Param #
-----------------------------------
Linear-1      [-1, 16]          336
ReLU-2        [-1, 16]            0
Linear-3      [-1, 24]          408
ReLU-4        [-1, 24]            0
Linear-5      [-1, 5]           125
ReLU-6        [-1, 5]             0
===================================
Total params: 869
Input size (MB): 0.00
Forward/backward pass size (MB): 0.00
Params size (MB): 0.00
Estimated total size (MB): 0.00
`,
    });
  });

  it("has an adapter's columns with --lora: r (in + out) for each layer that can have one", async () => {
    const { code, stdout } = await summary(join(goldenCases, "mlp", "model.onnx"), "--lora", "4");
    expect(code).toBe(0);
    expect(stdout).toContain(`Layer (type)  Output shape  Param #  LoRA r 4
---------------------------------------------
Linear-1      [-1, 16]          336     + 144
ReLU-2        [-1, 16]            0
Linear-3      [-1, 24]          408     + 160
ReLU-4        [-1, 24]            0
Linear-5      [-1, 5]           125     + 116
ReLU-6        [-1, 5]             0
`);
    expect(stdout).toMatch(/\nLoRA params: 420 \(48\.331 % of the base\)\nTotal with LoRA: 1,289\n$/);
  });

  it("of a model that was built with this library: a product and its bias are one layer", async () => {
    expect((await summary("made.onnx", "--lora", "2")).stdout).toBe(`Layer (type)  Output shape  Param #  LoRA r 2
---------------------------------------------
Linear-1      [-1, 200]      60,200   + 1,000
Sigmoid-2     [-1, 200]           0
Mul-3         [-1, 200]           0
=============================================
Total params: 60,200
Input size (MB): 0.00
Forward/backward pass size (MB): 0.00
Params size (MB): 0.23
Estimated total size (MB): 0.24
LoRA params: 1,000 (1.661 % of the base)
Total with LoRA: 61,200
`);
  });

  it("has a row for each operator, with PyTorch's names for the layers that it knows", async () => {
    const { stdout } = await summary(join(goldenCases, "reg", "model.onnx"));
    expect(stdout.split("\n").slice(2, 11)).toEqual([
      "Linear-1      [-1, 12]           96",
      "LeakyReLU-2   [-1, 12]            0",
      "Linear-3      [-1, 12]          156",
      "ELU-4         [-1, 12]            0",
      "LayerNorm-5   [-1, 12]           24",
      "Softplus-6    [-1, 12]            0",
      "Linear-7      [-1, 2]            26",
      "===================================",
      "Total params: 302", // (7 + 1) 12 + (12 + 1) 12 + 2 x 12 + (12 + 1) 2
    ]);
  });
});

describe("errors", () => {
  const cases: [args: string[], code: number, stderr: RegExp][] = [
    [["nowhere.onnx"], 1, /^lowrank: nowhere\.onnx: cannot read: no such file; check the path\n$/],
    [["folder"], 1, /^lowrank: folder: cannot read: it is a folder; name a file\n$/],
    [["notes.onnx"], 1, /^lowrank: notes\.onnx: not an ONNX model, or a damaged one .*\n$/],
    [["half.onnx"], 1, /^lowrank: half\.onnx: not an ONNX model, or a damaged one .*\n$/],
    [["empty.onnx"], 1, /^lowrank: empty\.onnx: .*\n$/],
    [["made.onnx", "--lora", "0"], 2, /^lowrank: --lora: expected a rank .*, got 0\n$/],
    [["made.onnx", "--lora", "two"], 2, /^lowrank: .*--lora.*'two'.*expected a number.*\n$/],
    [["made.onnx", "--lroa", "2"], 2, /^lowrank: unknown option '--lroa' \(Did you mean --lora\?\).*\n$/],
    [[], 2, /^lowrank: missing required argument 'model'.*\n$/],
  ];
  for (const [args, code, stderr] of cases) {
    it(`summary ${args.join(" ")}`, async () => {
      expect(await summary(...args)).toEqual({ code, stdout: "", stderr: expect.stringMatching(stderr) });
    });
  }
});
