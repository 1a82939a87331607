// `lowrank adapter`: each verb as a user runs it, on PEFT's own adapters of GPT-2 and DistilBERT, and on a network like the study's.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Adapter,
  attachLora,
  combine,
  compare,
  createModel,
  createRandom,
  createSession,
  graphBuilder,
  initAdapter,
  loadModel,
  type Model,
  merge,
  readAdapter,
  readSafetensors,
  spectrum,
  type Tensor,
  tensor,
  writeAdapter,
  writeModel,
} from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { temporaryFolder } from "./support/folders.ts";
import { goldenCases } from "./support/golden.ts";

const work = temporaryFolder();
const run = (...args: string[]): Promise<Ended> => lowrank(["adapter", ...args], { cwd: work });
const golden = (name: string, file: string): string => join(goldenCases, name, file);

/** Of logits of about 1: the golden cases' own tolerance. */
const logitTolerance = 1e-5;

const adapterIn = (folder: string): Adapter => {
  const path = folder.startsWith("/") ? folder : join(work, folder);
  const names = ["adapter_config.json", "adapter_model.safetensors"];
  return readAdapter(new Map(names.map((name) => [name, new Uint8Array(readFileSync(join(path, name)))])));
};

/** 12 -> 20 -> 5, Linear layers with a Relu between them. */
function network(): Model {
  const random = createRandom(3, "weights");
  const draw = (...dims: [number, ...number[]]): Tensor => {
    const values = { length: dims.reduce((product, size) => product * size, 1) };
    return tensor(
      "float32",
      dims,
      Float32Array.from(values, () => 0.5 * random.normal()),
    );
  };
  const g = graphBuilder({ name: "network", opset: 17 });
  const layer = (x: string, path: string, inputs: number, outputs: number): string => {
    const weight = g.initializer(`${path}.weight`, draw(outputs, inputs));
    const bias = g.initializer(`${path}.bias`, draw(outputs));
    return g.op("Gemm", [x, weight, bias], { transB: 1 });
  };
  const h = g.op("Relu", [layer(g.input("x", "float32", ["batch", 12]), "fc1", 12, 20)]);
  g.output(layer(h, "fc2", 20, 5), "float32", ["batch", 5]);
  return createModel(g.build(), { opset: 17 });
}

function write(folder: string, seed: number): void {
  const { adapter } = initAdapter(attachLora(network(), { r: 3, loraAlpha: 6 }), { seed });
  const random = createRandom(seed, "B");
  for (const { data } of adapter.tensors.values()) {
    if (!(data instanceof Float32Array)) continue;
    for (let i = 0; i < data.length; i++) data[i] = 0.3 * random.normal();
  }
  mkdirSync(join(work, folder));
  for (const [name, bytes] of writeAdapter(adapter)) writeFileSync(join(work, folder, name), bytes);
}

async function outputOf(model: Model, inputs: ReadonlyMap<string, Tensor>): Promise<ArrayLike<number>> {
  const session = await createSession(model);
  try {
    return [...(await session.run(Object.fromEntries(inputs))).values()][0]!.data as Float32Array;
  } finally {
    await session.dispose();
  }
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Math.max(...Array.from(a, (value, index) => Math.abs(value - b[index]!)));
}

beforeAll(() => {
  writeFileSync(join(work, "net.onnx"), writeModel(network()));
  write("one", 1);
  write("two", 2);
});

describe.each(["gpt2", "distilbert"])("%s with PEFT's adapter", (name) => {
  const [model, adapter] = [golden(name, "base.onnx"), golden(name, "adapter")];
  const stored = readSafetensors(new Uint8Array(readFileSync(golden(name, "tensors.safetensors"))), name).tensors;
  const inputs = new Map(
    [...stored].filter(([key]) => key.startsWith("input.")).map(([key, value]) => [key.slice("input.".length), value]),
  );

  it("merges into what PEFT computes, and comes out again", async () => {
    const merged = await run("merge", model, adapter, `${name}.onnx`);
    const count = adapterIn(adapter).tensors.size / 2;
    expect(merged).toEqual({ code: 0, stdout: `Merged ${count} modules into ${name}.onnx\n`, stderr: "" });
    const logits = await outputOf(await loadModel(join(work, `${name}.onnx`)), inputs);
    const expected = stored.get("logits")!.data as Float32Array;
    expect(largestDifference(logits, expected)).toBeLessThan(logitTolerance);

    expect((await run("unmerge", `${name}.onnx`, adapter, `${name}.base.onnx`)).code).toBe(0);
    const back = await outputOf(await loadModel(join(work, `${name}.base.onnx`)), inputs);
    expect(largestDifference(back, stored.get("base.logits")!.data as Float32Array)).toBeLessThan(logitTolerance);
  });

  it("extracts the adapter again from both models", async () => {
    const r = Math.max(...spectrum(adapterIn(adapter)).map((module) => module.r));
    const { code, stdout } = await run(
      "extract",
      model,
      `${name}.onnx`,
      "--rank",
      String(r),
      "--output",
      `${name}.again`,
    );
    expect(code).toBe(0);
    expect(stdout).toContain("Relative error over all modules: ");
    expect(compare(adapterIn(adapter), adapterIn(`${name}.again`)).relativeDistance).toBeLessThan(1e-5);
  });

  it("is shown with the singular values of every update", async () => {
    const { code, stdout, stderr } = await run("show", adapter);
    expect([code, stderr]).toEqual([0, ""]);
    const modules = spectrum(adapterIn(adapter));
    const lines = stdout.split("\n");
    for (const { path, r, singularValues } of modules) {
      const line = lines.find((text) => text.startsWith(`${path} `))!;
      expect(line).toMatch(new RegExp(` ${r} .* █[▁-█]{${r - 1}} .* ${Number(singularValues[0]!.toPrecision(4))} `));
    }
    const used = modules.reduce((sum, module) => sum + module.effectiveRank, 0);
    expect(stdout).toContain(`\nIn use: ${used.toFixed(1)} of ${modules.reduce((sum, { r }) => sum + r, 0)} ranks (`);
    expect(JSON.parse((await run("show", adapter, "--json")).stdout)).toEqual({ adapter, beside: [], modules });
  });
});

describe("a network like the study's", () => {
  it("combines adapters as the library does", async () => {
    const args = [
      "combine",
      "one",
      "two",
      "--weight",
      "0.7",
      "--weight",
      "-0.5",
      "--method",
      "cat",
      "--output",
      "both",
    ];
    const { code, stdout } = await run(...args, "--json");
    expect(code).toBe(0);
    const expected = combine([adapterIn("one"), adapterIn("two")], { weights: [0.7, -0.5], method: "cat" });
    expect(adapterIn("both")).toEqual(readAdapter(writeAdapter(expected)));
    expect(JSON.parse(stdout)).toEqual({
      output: "both",
      modules: ["fc1", "fc2"].map((path) => ({ path, r: 6, scale: 1 })),
      dryRun: false,
    });
    // What both do to the model is the weighted sum of what each does.
    const x = new Map([
      [
        "x",
        tensor(
          "float32",
          [1, 12],
          Float32Array.from({ length: 12 }, (_, i) => Math.sin(i)),
        ),
      ],
    ]);
    const merged = merge(network(), adapterIn("both"));
    const steps = merge(
      merge(network(), combine([adapterIn("one")], { weights: [0.7] })),
      combine([adapterIn("two")], { weights: [-0.5] }),
    );
    expect(largestDifference(await outputOf(merged, x), await outputOf(steps, x))).toBeLessThan(logitTolerance);
  });

  it("resizes, telling the error", async () => {
    const { code, stdout } = await run("resize", "one", "--rank", "2", "--output", "small", "--json");
    expect(code).toBe(0);
    const { relativeError, modules } = JSON.parse(stdout) as { relativeError: number; modules: { r: number }[] };
    expect(modules.map(({ r }) => r)).toEqual([2, 2]);
    const told = compare(adapterIn("one"), adapterIn("small")).relativeDistance;
    expect(relativeError).toBeCloseTo(told, 6);
    expect(adapterIn("small").config).toMatchObject({ r: 2, loraAlpha: 4 });
  });

  it("tells how far adapters are apart", async () => {
    const { code, stdout, stderr } = await run("diff", "one", "two");
    expect([code, stderr]).toEqual([0, ""]);
    const rows = stdout.split("\n").map((line) => line.trim().split(/ {2,}/));
    expect(rows[0]).toEqual(["Module", "In", "Distance", "Relative", "Cosine", "Inputs shared", "Outputs shared"]);
    const { modules, distance } = compare(adapterIn("one"), adapterIn("two"));
    expect(Number(rows[2]![2])).toBeCloseTo(modules[0]!.distance, 2);
    expect(rows.find(([first]) => first === "all")?.map(Number)[1]).toBeCloseTo(distance, 2);
    const parsed = JSON.parse((await run("diff", "one", "two", "--json")).stdout) as object;
    expect(parsed).toEqual({ first: "one", second: "two", ...compare(adapterIn("one"), adapterIn("two")) });
  });

  it("writes nothing with --dry-run", async () => {
    const attempts = [
      ["merge", "net.onnx", "one", "nothing"],
      ["unmerge", "net.onnx", "one", "nothing"],
      ["combine", "one", "two", "--output", "nothing"],
      ["resize", "one", "--rank", "1", "--output", "nothing"],
      ["extract", "net.onnx", golden("mlp", "model.onnx"), "--rank", "1", "--output", "nothing"],
    ];
    for (const [index, args] of attempts.entries()) {
      const { code, stdout, stderr } = await run(...args, "--dry-run");
      expect(existsSync(join(work, "nothing"))).toBe(false);
      if (index < 4) expect([code, stdout]).toEqual([0, expect.stringMatching(/Nothing written, .* nothing\n$/)]);
      else expect([code, stderr]).toEqual([1, expect.stringMatching(/fc1: expected Linear \[20, 12\] as in the base/)]);
    }
  });

  const errors: [args: string[], code: number, stderr: RegExp][] = [
    [["show", "nowhere"], 1, /^lowrank: nowhere: cannot read: no such file/],
    [["merge", "net.onnx", golden("gpt2", "adapter"), "x.onnx"], 1, /the model has no layer for it/],
    [
      ["combine", "one", "two", "--method", "ties", "--output", "x"],
      2,
      /^lowrank: combine: density: expected a fraction/,
    ],
    [
      ["combine", "one", "--method", "mean", "--output", "x"],
      2,
      /^lowrank: option '--method <name>' argument 'mean' is invalid/,
    ],
    [["resize", "one", "--output", "x"], 2, /^lowrank: resize: expected one of r and energy, got none/],
    [["melt"], 2, /^lowrank: unknown command 'melt'/],
  ];
  it.each(errors)("fails: %j", async (args, code, stderr) => {
    expect(await run(...args)).toEqual({ code, stdout: "", stderr: expect.stringMatching(stderr) });
    expect(existsSync(join(work, "x"))).toBe(false);
    expect(existsSync(join(work, "x.onnx"))).toBe(false);
  });

  it("helps with an example", async () => {
    for (const verb of ["show", "merge", "unmerge", "combine", "resize", "extract", "diff"]) {
      const { code, stdout } = await run(verb, "--help");
      expect([code, stdout]).toEqual([0, expect.stringContaining(`\nExample:\n  lowrank adapter ${verb} `)]);
    }
  });
});
