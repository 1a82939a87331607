// `lowrank study` from end to end on a few hundred real digits: what it prints, what it leaves, and whether what it
// leaves is true. Everything that it claims about its files is measured again here, with the stock runtime where that can.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { type CompressionPoint, type Head, readAdapter, type StudySummary } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { normalized, type SmallMnist, writeSmallMnist } from "./support/digits.ts";
import { filesBelow, root, temporaryFolder } from "./support/folders.ts";
import { runOnnxFile } from "./support/onnx.ts";
import { linearTable, readFolder, readMetrics, readSummary, reluTable } from "./support/study.ts";
import { checkFiles } from "./support/study-files.ts";

const { version: runtimeVersion } = createRequire(import.meta.url)("onnxruntime-node/package.json") as {
  version: string;
};

const work = temporaryFolder();
let digits: SmallMnist;

function study(out: string, ...args: string[]): Promise<Ended> {
  return lowrank(["study", "--data", "digits", "--threads", "2", "--out", out, ...args], { cwd: work });
}

const validate = new Ajv2020({ allErrors: true, strict: true }).compile(
  JSON.parse(readFileSync(join(root, "schemas", "summary.schema.json"), "utf8")),
);

function schemaFaults(summary: unknown): string[] {
  return validate(summary) ? [] : validate.errors!.map(({ instancePath, message }) => `${instancePath} ${message}`);
}

beforeAll(() => {
  digits = writeSmallMnist(join(work, "digits"), { train: 60, test: 20 });
});

describe("a whole run, with --json", () => {
  const run = join(work, "whole");
  const steps = 40;
  let ended: Ended;
  let summary: StudySummary;

  beforeAll(async () => {
    ended = await study("whole", "--steps", String(steps), "--json");
    expect(ended.code, ended.stderr).toBe(0);
    summary = readSummary(run);
  });

  it("prints summary.json, and nothing else, to stdout", () => {
    expect(ended.stdout).toBe(readFileSync(join(run, "summary.json"), "utf8"));
  });

  it("shows its progress on stderr, a line for each training", () => {
    const labels = ended.stderr.match(/^(relu|linear): [a-z ]+( on digit \d( with replay)?)?(?= {2}100 %)/gm);
    const lines = (head: Head): string[] => {
      const digit = summary.heads[head]!.digit;
      return [
        `${head}: training the base`,
        `${head}: tuning on digit ${digit}`,
        `${head}: tuning on digit ${digit} with replay`,
      ];
    };
    expect(labels).toEqual([...lines("relu"), ...lines("linear")]);
  });

  it("fits the schema", () => {
    expect(schemaFaults(summary)).toEqual([]);
  });

  it("is refused by the schema when anything is missing, added or out of range", () => {
    const broken = (change: (copy: StudySummary) => void): string[] => {
      const copy = structuredClone(summary);
      change(copy);
      return schemaFaults(copy);
    };
    expect(broken((copy) => copy.heads.linear!.base.wrong.pop())).toEqual([
      "/heads/linear/base/wrong must NOT have fewer than 10 items",
    ]);
    expect(broken((copy) => copy.heads.linear!.base.wrong.fill(-1, 3, 4))).toEqual([
      "/heads/linear/base/wrong/3 must be >= 0",
    ]);
    expect(broken((copy) => Object.assign(copy.heads.relu!.enabled, { accuracy: 1.5 }))).toEqual([
      "/heads/relu/enabled/accuracy must be <= 1",
    ]);
    expect(broken((copy) => Object.assign(copy.data.sha256, { extra: "0" }))).toEqual([
      '/data/sha256/extra must match pattern "^[0-9a-f]{64}$"',
    ]);
    expect(broken((copy) => Object.assign(copy.settings, { learningrate: 1 }))).toEqual([
      "/settings must NOT have additional properties",
    ]);
    expect(broken((copy) => Reflect.deleteProperty(copy.heads, "relu"))).toContain(
      "/heads must have required property 'relu'",
    );
  });

  it("leaves exactly the files that it names", () => {
    const adapter = (name: string): string[] => [`${name}/adapter_config.json`, `${name}/adapter_model.safetensors`];
    const ofHead = (prefix: string): string[] => [
      `${prefix}base.onnx`,
      `${prefix}merged.onnx`,
      ...adapter(`${prefix}adapter`),
      ...adapter(`${prefix}adapter-replay`),
    ];
    const ofRun = [".lowrank-run", "config.json", "env.json", "metrics.jsonl", "report.html", "summary.json"];
    expect(filesBelow(run)).toEqual([...ofRun, ...ofHead(""), ...ofHead("relu-")].sort());
    const { relu, linear } = summary.heads;
    expect([relu!.files, linear!.files]).toEqual(
      ["relu-", ""].map((prefix) => ({
        base: `${prefix}base.onnx`,
        adapter: `${prefix}adapter`,
        replayAdapter: `${prefix}adapter-replay`,
        merged: `${prefix}merged.onnx`,
      })),
    );
  });

  it("resolves every option in config.json", () => {
    const config: unknown = JSON.parse(readFileSync(join(run, "config.json"), "utf8"));
    expect(config).toEqual({
      head: "both",
      rank: 1,
      alpha: 1,
      learningRate: 0.001,
      batch: 10,
      epochs: 1,
      steps,
      digit: null,
      replay: 0.5,
      seed: 0,
      limit: null,
      device: "cpu",
      threads: 2,
    });
    expect(summary.settings).toEqual(config);
  });

  it("tells in env.json what the numbers depend on, and no path of this machine", () => {
    const text = readFileSync(join(run, "env.json"), "utf8");
    const environment = JSON.parse(text) as { versions: Record<string, string> } & Record<string, unknown>;
    expect(environment).toMatchObject({ threads: 2, seed: 0, platform: process.platform, data: summary.data.sha256 });
    expect(environment.versions).toMatchObject({ node: process.versions.node, "onnxruntime-node": runtimeVersion });
    expect(environment.versions.lowrank).toMatch(/^\d+\.\d+\.\d+$/);
    expect(text).not.toMatch(/"(\/|[A-Za-z]:\\|~|file:)/);
    expect(text).not.toContain(work);
  });

  it("records each step and each evaluation in metrics.jsonl", () => {
    const lines = readMetrics(run);
    const baseSteps = digits.train.labels.length / 10;
    for (const head of ["relu", "linear"] as const) {
      const found = summary.heads[head]!;
      for (const [phase, count, meanLoss] of [
        ["base", baseSteps, found.base.meanLoss],
        ["tuned", steps, found.enabled.meanLoss],
        ["replay", steps, found.replay!.meanLoss],
      ] as const) {
        const own = lines.filter((line) => line.kind === "step" && line.phase === `${head}/${phase}`);
        expect(own.map(({ step }) => step)).toEqual(Array.from({ length: count }, (_, index) => index + 1));
        expect(own.every(({ lr, stepsPerSecond }) => lr === 0.001 && (stepsPerSecond as number) > 0)).toBe(true);
        const sum = own.reduce((total, { loss }) => total + (loss as number), 0);
        expect(sum / count).toBeCloseTo(meanLoss, 5);
      }
      const evaluations = lines.filter((line) => line.kind === "evaluation" && line.phase.startsWith(head));
      expect(evaluations).toEqual(
        (["base", "enabled", "disabled", "replay"] as const).map((phase) => ({
          kind: "evaluation",
          phase: `${head}/${phase}`,
          accuracy: found[phase]!.accuracy,
          wrong: found[phase]!.wrong,
        })),
      );
    }
  });

  it("counts as the study did", () => {
    expect(summary.data).toMatchObject({ train: 600, test: 200 });
    for (const head of ["relu", "linear"] as const) {
      const { parameters, layers } = summary.heads[head]!;
      expect({ ...parameters, percent: parameters.percent.toFixed(3) }).toEqual({
        base: 2_807_010,
        lora: 6_794,
        total: 2_813_804,
        percent: "0.242",
      });
      const row = (name: string, features: number, own: number, lora: number) => ({
        name,
        outputShape: [-1, features],
        parameters: own,
        lora,
      });
      expect(layers).toEqual(
        [
          row("Linear-1", 1000, 785_000, 784 + 1000),
          row("ReLU-2", 1000, 0, 0),
          row("Linear-3", 2000, 2_002_000, 1000 + 2000),
          row("ReLU-4", 2000, 0, 0),
          row("Linear-5", 10, 20_010, 2000 + 10),
          row("ReLU-6", 10, 0, 0),
        ].slice(0, head === "relu" ? 6 : 5),
      );
    }
  });

  it("learns: the linear head reads most digits; tuning halves its digit's wrong count, the others pay, replay mends", () => {
    const { base, digit, digitChosen, enabled, replay } = summary.heads.linear!;
    expect(base.accuracy).toBeGreaterThan(0.6); // .72, .79, .77 with seeds 0, 1, 2
    expect([digitChosen, base.wrong[digit]]).toEqual(["most wrong", Math.max(...base.wrong)]);
    expect(enabled.wrong[digit]).toBeLessThanOrEqual(base.wrong[digit]! / 2);
    expect(replay!.wrong[digit]).toBeLessThan(base.wrong[digit]!);
    expect(enabled.accuracy).toBeLessThan(base.accuracy);
    expect(replay!.accuracy).toBeGreaterThan(enabled.accuracy);
    expect(base.deadOutputs).toEqual([]);
  });

  it("makes the linear base smaller: fewer bytes at each rank, as much read rightly in 8 bits", () => {
    expect(summary.heads.relu!.compression).toBe(null);
    const { base, files, compression } = summary.heads.linear!;
    const whole = statSync(join(run, files.base)).size;
    const sizes = (isKind: (point: CompressionPoint) => boolean): number[] =>
      compression!.filter(isKind).map(({ bytes }) => bytes / whole);
    const plain = sizes(({ weighedWithData, quantized }) => !weighedWithData && quantized === null);
    // Of 2,807,010 parameters, 2,000,000 become 3,000 a rank.
    for (const [at, rank] of [256, 64, 8].entries()) {
      expect(plain[at]).toBeCloseTo((807_010 + 3_000 * rank) / 2_807_010, 3);
    }
    const bits = compression!.filter(({ rank }) => rank === null);
    expect(bits.map(({ quantized }) => quantized)).toEqual(["int8", "int4"]);
    expect(bits[0]!.bytes / whole).toBeCloseTo(0.252, 3);
    expect(bits[1]!.bytes / whole).toBeCloseTo(0.161, 3);
    expect(Math.abs(bits[0]!.accuracy - base.accuracy)).toBeLessThan(0.02);
    expect(readFileSync(join(run, "report.html"), "utf8")).toContain("Size against mistakes");
  });

  for (const head of ["relu", "linear"] as const) {
    it(`says the truth about the ${head} head's files`, async () => {
      await checkFiles(run, summary.heads[head]!, digits);
    });
  }

  it("finds the dead outputs of the ReLU head: those whose logit is zero for every image", async () => {
    const { base, files } = summary.heads.relu!;
    const isDead = Array<boolean>(10).fill(true);
    for (const { images } of [digits.train, digits.test]) {
      const logits = await runOnnxFile(join(run, files.base), normalized(images), 784);
      for (const [index, logit] of logits.entries()) if (logit !== 0) isDead[index % 10] = false;
    }
    const dead = isDead.flatMap((value, digit) => (value ? [digit] : []));
    expect(base.deadOutputs).toEqual(dead.map((digit) => ({ digit, wrong: base.wrong[digit], images: 20 })));
  });

  it("tells it all in one self-contained page", () => {
    const page = readFileSync(join(run, "report.html"), "utf8");
    expect(page).toMatch(/^<!doctype html>/i);
    expect(page).toContain("Content-Security-Policy");
    const references = [...page.matchAll(/\s(?:src|href|action|poster|srcset|data)\s*=\s*["']?([^"'\s>]*)/g)];
    expect(references.map(([, target]) => target!).filter((target) => !/^(#|data:)/.test(target))).toEqual([]);
    expect(page).not.toMatch(/<(script|iframe|object|embed)\b|@import|url\((?!["']?(#|data:))|\son\w+=/i);
    for (const number of ["2,807,010", "6,794", "0.242"]) expect(page).toContain(number);
    expect(page).not.toContain(work);
  });
});

describe("one head", () => {
  const args = ["--head", "linear", "--digit", "3", "--seed", "7", "--steps", "20"];
  let spoken: Ended;
  let quiet: Ended;

  beforeAll(async () => {
    spoken = await study("spoken", ...args);
    quiet = await study("quiet", ...args, "--quiet");
    expect([spoken.code, quiet.code], spoken.stderr + quiet.stderr).toEqual([0, 0]);
  });

  it("is told in STUDY's order, with its table and its counts", () => {
    const order = [
      "Low-rank adaptation (LoRA)",
      "600 training and 200 test images used",
      "Seed 7, 2 threads, device cpu.",
      "The same network with a linear head",
      linearTable,
      "Trained 60 steps",
      "Test accuracy",
      "To tune: digit 3, as asked for.",
      "LoRA adds 6,794 parameters (0.242 %) for 2,813,804 in all.",
      "Tuned on digit 3: 20 steps",
      "every frozen weight is bit for bit what it was (SHA-256):   yes",
      "adapter off is the base again, logit for logit:             yes",
      "On its own: digit 3 from",
      "With replay: digit 3 from",
      "spoken/report.html",
    ];
    const found = order.map((text) => spoken.stdout.indexOf(text));
    expect(found.map((at, index) => (at < 0 ? order[index] : null)).filter((text) => text !== null)).toEqual([]);
    expect(found).toEqual(found.toSorted((a, b) => a - b));
    expect(spoken.stdout).not.toContain("ReLU-6");
  });

  it("takes the digit that it is given", () => {
    const { heads, complete } = readSummary(join(work, "spoken"));
    expect(complete).toBe(true);
    expect(Object.keys(heads)).toEqual(["linear"]);
    expect(heads.linear).toMatchObject({ digit: 3, digitChosen: "by option" });
  });

  it("says nothing with --quiet, and leaves nothing beside the run folders", () => {
    expect([quiet.stdout, quiet.stderr]).toEqual(["", ""]);
    // The home and cache folders of these runs would be here too: ONNX Runtime may put nothing there.
    expect(readdirSync(work).filter((name) => !["digits", "whole", "spoken", "quiet", "relu"].includes(name))).toEqual(
      [],
    );
  });

  it("gives the same again with the same seed: files byte for byte, numbers but for times", () => {
    const [first, second] = [join(work, "spoken"), join(work, "quiet")];
    expect(filesBelow(first)).toEqual(filesBelow(second));
    const timed = ["metrics.jsonl", "summary.json", "report.html"];
    for (const file of filesBelow(first).filter((name) => !timed.includes(name))) {
      expect(readFileSync(join(first, file)).equals(readFileSync(join(second, file))), file).toBe(true);
    }
    const timeless = (value: unknown): unknown =>
      JSON.parse(
        JSON.stringify(value, (key, own: unknown) =>
          ["started", "seconds", "stepsPerSecond"].includes(key) ? undefined : own,
        ),
      );
    expect(timeless(readMetrics(first))).toEqual(timeless(readMetrics(second)));
    expect(timeless(readSummary(first))).toEqual(timeless(readSummary(second)));
  });
});

describe("the documented network alone, without replay, at another rank", () => {
  const run = join(work, "relu");
  let ended: Ended;

  beforeAll(async () => {
    const size = ["--limit", "150", "--steps", "5", "--batch", "16", "--threads", "1"];
    const args = ["--head", "relu", "--replay", "0", "--rank", "2", "--alpha", "8", ...size, "--out", "relu"];
    ended = await lowrank(["study", ...args], { cwd: work, env: { LOWRANK_DATA: "digits" } });
    expect(ended.code, ended.stderr).toBe(0);
  });

  it("has no replay, in the summary, the files and the words", () => {
    const summary = readSummary(run);
    expect(schemaFaults(summary)).toEqual([]);
    expect(summary.heads.relu!.replay).toBe(null);
    expect(summary.heads.relu!.files.replayAdapter).toBe(null);
    expect(filesBelow(run).filter((file) => file.includes("replay"))).toEqual([]);
    expect(readMetrics(run).filter(({ phase }) => phase === "relu/replay")).toEqual([]);
    expect(ended.stdout).not.toMatch(/^With replay/m);
  });

  it("prints the published table", () => {
    expect(ended.stdout).toContain(`\n${reluTable}`);
  });

  it("keeps to the limit, the batch and the rank, on the data that LOWRANK_DATA names", () => {
    const { data, heads } = readSummary(run);
    expect(data.source).toBe("a data set in MNIST's format (not the original) in digits (LOWRANK_DATA)");
    expect(data).toMatchObject({ train: 150, test: 150 });
    expect(heads.relu).toMatchObject({
      parameters: { base: 2_807_010, lora: 2 * 6_794, total: 2_807_010 + 2 * 6_794 },
      base: { steps: Math.ceil(150 / 16) },
      enabled: { steps: 5 },
    });
    const { config, tensors } = readAdapter(readFolder(join(run, "adapter")));
    expect(config).toMatchObject({ r: 2, loraAlpha: 8, baseModelNameOrPath: "base.onnx" });
    expect([...tensors].map(([key, { dims }]) => [key, ...dims])).toEqual(
      expect.arrayContaining([
        ["base_model.model.fc1.lora_A.weight", 2, 784],
        ["base_model.model.fc2.lora_B.weight", 2000, 2],
      ]),
    );
  });
});
