// `lowrank inspect` and `lowrank gradcheck`: what a model offers to an adapter, and whether its gradients are right.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createModel, graphBuilder, readModel, support, tensor, writeModel, writeSafetensors } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { goldenCases } from "./support/golden.ts";

const work = temporaryFolder();
const run = (...args: string[]): Promise<Ended> => lowrank(args, { cwd: work });
const mlp = join(goldenCases, "mlp", "model.onnx");

/** y = above(Riddle(below(x))): nothing can be learned below the riddle. */
function riddle(): Uint8Array {
  const g = graphBuilder({ name: "riddle", opset: 18 });
  const x = g.input("x", "float32", ["rows", 4]);
  const layer = (value: string, name: string): string => {
    const weight = g.initializer(`${name}.weight`, tensor("float32", [4, 4], new Float32Array(16).fill(0.1)));
    return g.op("MatMul", [value, weight], {}, { name: `/${name}/MatMul` });
  };
  const odd = g.op("Riddle", [layer(x, "below")], {}, { name: "/odd", domain: "test" });
  g.output(g.op("Identity", [layer(odd, "above")], {}, { output: "y" }), "float32", ["rows", 4]);
  const model = createModel(g.build(), { opset: 18 });
  const values = [{ name: odd, type: "float32" as const, shape: ["rows", 4], doc: "" }];
  return writeModel({
    ...model,
    opsets: new Map([...model.opsets, ["test", 1]]),
    graph: { ...model.graph, values },
  });
}

beforeAll(() => {
  writeFileSync(join(work, "riddle.onnx"), riddle());
  const rows = Float32Array.from({ length: 60 }, (_, index) => Math.sin(index));
  const inputs = new Map([["x", tensor("float32", [3, 20], rows)]]);
  writeFileSync(join(work, "inputs.safetensors"), writeSafetensors(inputs));
  writeFileSync(
    join(work, "other.safetensors"),
    writeSafetensors(new Map([["z", tensor("float32", [1], new Float32Array(1))]])),
  );
});

describe("lowrank inspect", () => {
  it("shows inputs, operators and sites", async () => {
    const { code, stdout, stderr } = await run("inspect", mlp);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toBe(`${mlp}: operator set 17, made by pytorch 1.13.0, 869 parameters

        Name    Type     Shape
------------------------------------
input   x       float32  [batch, 20]
output  logits  float32  [batch, 5]

Operator  Count  Gradient
-------------------------
Gemm          3  yes
Relu          3  yes

Module  Operator  Weight    Param #
-----------------------------------
fc1     Gemm      [16, 20]      336
fc2     Gemm      [24, 16]      408
fc3     Gemm      [5, 24]       125
`);
  });

  it("says that targets can be trained", async () => {
    const { code, stdout } = await run("inspect", mlp, "--target", "fc1,fc3");
    expect(code).toBe(0);
    expect(stdout).toMatch(/\nfc1 .* target\nfc2 .*\d\nfc3 .* target\n\nTrainable: 520 parameters in 2 layers\.\n$/);
    expect((await run("inspect", mlp, "--target", "/fc[12]/")).stdout).toMatch(/ in 2 layers\.\n$/);
    expect((await run("inspect", mlp, "--target", "all-linear")).stdout).toMatch(/ in 3 layers\.\n$/);
    expect((await run("inspect", mlp, "--target", "fc2", "--target", "fc3")).stdout).toMatch(/ in 2 layers\.\n$/);
  });

  it("names every operator in the way, with its nodes", async () => {
    const { code, stdout } = await run("inspect", "riddle.onnx", "--target", "below");
    expect(code).toBe(0);
    expect(stdout).toMatch(/\ntest\.Riddle +1 +no\n/);
    expect(stdout).toContain(
      '\nNot trainable:\n  - cannot differentiate: there is no gradient rule for test.Riddle ("/odd") between the adapters and the loss',
    );
    expect(stdout).toMatch(/\nIn the way:\n {2}test\.Riddle: \/odd\n$/);
    expect((await run("inspect", "riddle.onnx", "--target", "above")).stdout).toMatch(/\nTrainable: /);
  });

  it("gives a program with --json what support() gives", async () => {
    const { code, stdout } = await run("inspect", "riddle.onnx", "--target", "below", "--json");
    expect(code).toBe(0);
    const { file, ...rest } = JSON.parse(stdout) as Record<string, unknown>;
    expect(file).toBe("riddle.onnx");
    expect(rest).toEqual(support(readModel(riddle()), { targetModules: ["below"] }));
  });

  const errors: [args: string[], code: number, stderr: RegExp][] = [
    [["nowhere.onnx"], 1, /^lowrank: nowhere\.onnx: cannot read: no such file; check the path\n$/],
    [[mlp, "--target", "fc9"], 2, /^lowrank: targetModules: "fc9" matches no layer; nearest: .*\n$/],
    [[mlp, "--target", "fc1", "--output", "y"], 2, /^lowrank: loss support: the model has no output "y"; .*\n$/],
    [[], 2, /^lowrank: missing required argument 'model'.*\n$/],
  ];
  for (const [args, code, stderr] of errors) {
    it(`fails: ${args.slice(1).join(" ") || args.join(" ").slice(-12)}`, async () => {
      expect(await run("inspect", ...args)).toEqual({ code, stdout: "", stderr: expect.stringMatching(stderr) });
    });
  }
});

describe("lowrank gradcheck", () => {
  it("holds every gradient against differences", async () => {
    const { code, stdout, stderr } = await run("gradcheck", mlp, "--target", "fc1,fc2");
    expect([code, stderr]).toEqual([0, ""]);
    const lines = stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^Parameter +Gradient +Difference +Error$/);
    expect(lines.slice(2, 6).map((line) => line.split(/ +/)[0])).toEqual([
      "fc1.lora_A.weight",
      "fc1.lora_B.weight",
      "fc2.lora_A.weight",
      "fc2.lora_B.weight",
    ]);
    for (const line of lines.slice(2, 6)) {
      const [, gradient, difference] = line.split(/ +/).map(Number) as [number, number, number];
      expect(Math.abs(gradient - difference)).toBeLessThan(1e-4 * Math.abs(difference));
    }
    expect(lines.at(-1)).toBe("Passed: 4 of 4 gradients within 0.001 of float64 differences.");
  });

  it("takes inputs from a file, and a seed", async () => {
    const args = ["gradcheck", mlp, "--target", "fc3", "--rank", "2", "--json"];
    const [given, again, other] = await Promise.all([
      run(...args, "--inputs", "inputs.safetensors"),
      run(...args, "--inputs", "inputs.safetensors"),
      run(...args, "--inputs", "inputs.safetensors", "--seed", "1"),
    ]);
    expect(given).toEqual(again);
    expect(JSON.parse(given.stdout)).toMatchObject({ passed: true, precision: "float64", rows: [{}, {}] });
    expect(other.stdout).not.toBe(given.stdout);
  });

  it("says what is wrong", async () => {
    const missing = await run("gradcheck", mlp, "--inputs", "other.safetensors");
    expect(missing).toMatchObject({
      code: 1,
      stderr: "lowrank: inputs: expected tensors x, got z; missing: x\n",
    });
    const refused = await run("gradcheck", "riddle.onnx", "--target", "below");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^lowrank: cannot differentiate: there is no gradient rule for test\.Riddle .*\n$/);
    expect((await run("gradcheck", mlp, "--rank", "0")).code).toBe(2);
  });
});
