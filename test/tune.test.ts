// `lowrank pretrain` and `lowrank tune` as a user runs them: what they print and leave, that they learn, that what they leave is
// right, and how they end when something is in the way.
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { attachLora, createSession, loadModel, type RunSummary, readAdapter, tensor } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { filesBelow, temporaryFolder } from "./support/folders.ts";
import { records } from "./support/run-folders.ts";
import { clusterRows, writeClusters } from "./support/tables.ts";

const work = temporaryFolder();
const points = { features: 12, classes: 4 };

function run(...args: string[]): Promise<Ended> {
  return lowrank([...args, "--threads", "1"], { cwd: work });
}

function summaryOf(folder: string): RunSummary {
  return JSON.parse(readFileSync(join(work, folder, "summary.json"), "utf8")) as RunSummary;
}

function message({ stderr }: Ended): string {
  return stderr.split("\n").find((line) => line.startsWith("lowrank:")) ?? stderr;
}

let pretrained: Ended;

beforeAll(async () => {
  writeClusters(work, "general.csv", { ...points, rows: 400, seed: 1 });
  // The same points under other names: what the base knows is wrong here.
  writeClusters(work, "special.csv", { ...points, rows: 400, seed: 2, turn: 1 });
  pretrained = await run(
    ..."pretrain --layers 12,32,4 --data general.csv --out base --learning-rate 0.01 --epochs 4 --json".split(" "),
  );
  expect(pretrained.code, pretrained.stderr).toBe(0);
});

describe("lowrank pretrain --layers", () => {
  it("prints summary.json and nothing else with --json, and progress on stderr", () => {
    expect(pretrained.stdout).toBe(readFileSync(join(work, "base", "summary.json"), "utf8"));
    expect(pretrained.stderr).toMatch(/^training {2}100 % {2}\d+\/\d+/m);
  });

  it("leaves the study's layout", () => {
    const expected = [
      ".lowrank-run",
      "best.onnx",
      "checkpoint.safetensors",
      "config.json",
      "env.json",
      "evaluation.json",
      "metrics.jsonl",
      "model.onnx",
      "report.html",
      "summary.json",
    ];
    expect(filesBelow(join(work, "base"))).toEqual(expect.arrayContaining(expected));
  });

  it("learns: from chance to nearly all right", () => {
    const { before, after, parameters, steps, best } = summaryOf("base");
    expect(before!["target/accuracy"]).toBeLessThan(0.75);
    expect(after!["target/accuracy"]).toBeGreaterThan(0.95);
    expect(parameters).toEqual({ base: 12 * 32 + 32 + 32 * 4 + 4, trained: 12 * 32 + 32 + 32 * 4 + 4 });
    expect(best!.metric).toBe("target/accuracy");
    expect(records(join(work, "base", "metrics.jsonl")).filter(({ kind }) => kind === "step")).toHaveLength(steps);
  });

  it("leaves a model that answers as the summary says", async () => {
    const session = await createSession(await loadModel(join(work, "base", "model.onnx")));
    const rows = clusterRows({ ...points, rows: 200, seed: 3 });
    const x = tensor("float32", [200, 12], Float32Array.from(rows.flatMap((row) => row.slice(0, 12))));
    const logits = (await session.run({ x })).get("logits")!.data as Float32Array;
    await session.dispose();
    const right = rows.filter((row, index) => {
      const scores = [...logits.subarray(4 * index, 4 * index + 4)];
      return scores.indexOf(Math.max(...scores)) === row[12];
    });
    expect(right.length).toBeGreaterThan(190);
  });
});

describe("lowrank tune", () => {
  let tuned: Ended;
  beforeAll(async () => {
    writeFileSync(
      join(work, "tune.yaml"),
      "data: special.csv\nretainedData: general.csv\nr: 4\nlearningRate: 1\nepochs: 6\n",
    );
    tuned = await run(..."tune base/model.onnx --config tune.yaml --learning-rate 0.01 --merge --out tuned".split(" "));
    expect(tuned.code, tuned.stderr).toBe(0);
  });

  it("says what it does", () => {
    expect(tuned.stdout).toContain("Trained: an adapter at 2 layers");
    expect(tuned.stdout).toContain("learning rate 0.01");
    expect(tuned.stdout).toMatch(/before training: target\/loss [\d.]+, target\/accuracy [\d.]+ %, retained\/loss/);
  });

  it("learns the target, and says what that costs of what was retained", () => {
    const { before, after, parameters, settings } = summaryOf("tuned");
    expect(before!["target/accuracy"]).toBeLessThan(0.1);
    expect(after!["target/accuracy"]).toBeGreaterThan(0.9);
    expect(before!["retained/accuracy"]).toBeGreaterThan(0.95);
    expect(after!["retained/accuracy"]).toBeLessThan(0.3);
    expect(parameters.trained).toBe(4 * (12 + 32) + 4 * (32 + 4));
    expect(settings).toMatchObject({ learningRate: 0.01, r: 4, data: ["special.csv"] });
  });

  it("leaves an adapter of PEFT's format, and a merged model that equals base and best adapter", async () => {
    const folder = join(work, "tuned", "best");
    const adapter = readAdapter(new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))])));
    expect(adapter.config).toMatchObject({ r: 4, loraAlpha: 8, baseModelNameOrPath: "base/model.onnx" });
    const base = await createSession(attachLora(await loadModel(join(work, "base", "model.onnx")), adapter.config));
    const merged = await createSession(await loadModel(join(work, "tuned", "merged.onnx")));
    const x = tensor(
      "float32",
      [1, 12],
      Float32Array.from({ length: 12 }, (_, index) => Math.sin(index)),
    );
    const answers = [await base.run({ x }, { adapter }), await merged.run({ x })];
    const [one, other] = answers.map((outputs) => [...(outputs.get("logits")!.data as Float32Array)]);
    await base.dispose();
    await merged.dispose();
    for (const [index, value] of one!.entries()) expect(value).toBeCloseTo(other![index]!, 4);
  });
});

describe("lowrank tune --help", () => {
  it("has every flag under the heading of its group, and an example", async () => {
    const { code, stdout } = await lowrank(["tune", "--help"], { cwd: work });
    expect(code).toBe(0);
    const headings = stdout.match(/^[A-Z][A-Za-z ]+:$/gm)!;
    expect(headings).toEqual(
      expect.arrayContaining(["Data:", "Adapter:", "Loss:", "Training:", "Evaluation:", "Output:"]),
    );
    const training = stdout.slice(stdout.indexOf("\nTraining:"), stdout.indexOf("\nEvaluation:"));
    expect(training).toContain("--learning-rate <n>");
    expect(training).toMatch(/--schedule <name> .*constant,\s+linear,\s+cosine,\s+one-cycle,\s+plateau/s);
    expect(stdout).toContain("lowrank tune model.onnx --data train.csv --out runs/first --resume");
    expect(stdout).not.toContain("--layers ");
  });
});

describe("--dry-run and --find-lr", () => {
  it("tells shapes, parameters, steps, memory and time, and writes nothing", async () => {
    const before = filesBelow(work);
    const { code, stdout } = await run(
      ..."tune base/model.onnx --data special.csv --out dry --dry-run --json".split(" "),
    );
    expect(code).toBe(0);
    const told = JSON.parse(stdout) as Record<string, unknown>;
    expect(told).toMatchObject({
      inputs: [{ name: "x", shape: ["batch", 12] }],
      sites: [
        { modulePath: "fc1", r: 8, parameters: 8 * (12 + 32) },
        { modulePath: "fc2", r: 8, parameters: 8 * (32 + 4) },
      ],
      parameters: { trained: 8 * (12 + 32) + 8 * (32 + 4) },
    });
    expect(told.memoryBytes).toBeGreaterThan(2 ** 24);
    expect(told.secondsPerStep).toBeGreaterThan(0);
    expect(told.seconds).toBeCloseTo(Number(told.secondsPerStep) * Number(told.steps), 9);
    expect(filesBelow(work)).toEqual(before);
  });

  it("suggests a rate that lowers the loss, and draws its curve", async () => {
    const { code, stdout } = await run(..."tune base/model.onnx --data special.csv --find-lr".split(" "));
    expect(code).toBe(0);
    const rate = Number(/try --learning-rate (\S+)\./.exec(stdout)![1]);
    expect(rate).toBeGreaterThan(1e-5);
    expect(rate).toBeLessThan(1);
    expect(stdout).toMatch(/\|.*\*/);
    expect(stdout).toContain("^");
  });
});

describe("what is in the way", () => {
  it.each([
    ["no data", ["tune", "base/model.onnx"], 2, "lowrank: tune: --data: expected a file or folder, got none"],
    [
      "an unknown flag",
      ["tune", "base/model.onnx", "--learningrate", "1"],
      2,
      "lowrank: unknown option '--learningrate' (Did you mean --learning-rate?); see lowrank tune --help",
    ],
    ["data that is not there", ["tune", "base/model.onnx", "--data", "gone.csv"], 1, /^lowrank: gone\.csv: not found/],
    [
      "a folder of somebody else's",
      ["tune", "base/model.onnx", "--data", "special.csv", "--out", "."],
      1,
      /^lowrank: \.: expected a new or empty folder or that of an earlier run/,
    ],
    [
      "a place that cannot be written",
      ["tune", "base/model.onnx", "--data", "special.csv", "--out", "special.csv/run"],
      1,
      /^lowrank: special\.csv\/run: cannot write: a part of the path is a file/,
    ],
  ])("%s: one line, and nothing left behind", async (_name, args, code, expected) => {
    const before = filesBelow(work);
    const ended = await run(...args);
    expect(ended.code).toBe(code);
    expect(message(ended)).toMatch(expected);
    expect(filesBelow(work)).toEqual(before);
  });

  it("a loss that runs away: the last checkpoint is intact, and the message says how to go on", async () => {
    const args = "tune base/model.onnx --data special.csv --out diverged --schedule constant --warmup 0 --clip 0".split(
      " ",
    );
    await run(...args, "--learning-rate", "0.001", "--epochs", "1");
    const good = readFileSync(join(work, "diverged", "checkpoint.safetensors"));
    const ended = await run(...args, "--resume", "--learning-rate", "1e25", "--epochs", "2");
    expect(ended.code).toBe(1);
    expect(message(ended)).toMatch(
      /^lowrank: step 1\d, batch .*; the checkpoint of step 12 is intact; go on with the same command, --resume and --out diverged/,
    );
    expect(readFileSync(join(work, "diverged", "checkpoint.safetensors"))).toEqual(good);
    const mended = await run(...args, "--resume", "--learning-rate", "0.001", "--epochs", "2");
    expect(mended.code, mended.stderr).toBe(0);
    expect(summaryOf("diverged")).toMatchObject({ complete: true, steps: 24 });
  });

  it("another run's folder is not gone on with", async () => {
    const ended = await run(..."tune base/model.onnx --data special.csv --r 2 --out tuned --resume".split(" "));
    expect(ended.code).toBe(2);
    expect(ended.stderr).toContain("--r: expected 4, as the run began, got 2");
    expect(existsSync(join(work, "tuned", "summary.json"))).toBe(true);
  });

  it.skipIf(process.getuid?.() === 0)(
    "a folder that becomes read-only: an error, and the checkpoint before",
    async () => {
      const args = "tune base/model.onnx --data special.csv --out locked --epochs 1".split(" ");
      await run(...args);
      chmodSync(join(work, "locked"), 0o500);
      try {
        const ended = await run(...args.slice(0, -1), "2", "--resume");
        expect(ended.code).toBe(1);
        expect(message(ended)).toMatch(/cannot write: permission denied/);
      } finally {
        chmodSync(join(work, "locked"), 0o700);
        rmSync(join(work, "locked"), { recursive: true });
      }
    },
  );
});
