// `lowrank eval`, `lowrank predict` and `lowrank runs` as a user runs them, on what `lowrank pretrain` and `lowrank tune` leave.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { filesBelow, root, temporaryFolder } from "./support/folders.ts";
import { schemaFaults } from "./support/schemas.ts";
import { clusterRows, writeClusters } from "./support/tables.ts";
import { writeJsonLines } from "./support/texts.ts";

const work = temporaryFolder();
const points = { features: 12, classes: 4 };

function run(command: string, ...more: string[]): Promise<Ended> {
  return lowrank([...command.split(" "), ...more], { cwd: work });
}

async function done(command: string, ...more: string[]): Promise<Ended> {
  const ended = await run(command, ...more);
  expect(ended.code, ended.stderr).toBe(0);
  return ended;
}

interface Line {
  readonly index: number;
  readonly label: string | number;
  readonly probability: number;
  readonly probabilities: Readonly<Record<string, number>>;
}

const linesOf = <T>(text: string): T[] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as T);

beforeAll(async () => {
  writeClusters(work, "general.csv", { ...points, rows: 400, seed: 1 });
  writeClusters(work, "special.csv", { ...points, rows: 400, seed: 2, turn: 1 });
  writeClusters(work, "test.csv", { ...points, rows: 200, seed: 3, turn: 1 });
  await done("pretrain --layers 12,32,4 --data general.csv --out base --learning-rate 0.01 --epochs 4 --threads 1");
  const tune = "tune base/model.onnx --data special.csv --retained-data general.csv --learning-rate 0.01 --threads 1";
  await done(`${tune} --out first --epochs 6 --tensorboard`);
  await done(`${tune} --out second --epochs 1 --r 2`);
  mkdirSync(join(work, "text"));
  copyFileSync(join(root, "test/fixtures/guides/decoder.onnx"), join(work, "text", "decoder.onnx"));
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(join(root, "test/fixtures/tokenizer", name), join(work, "text", name));
  }
});

interface Summary {
  readonly results: readonly {
    readonly name: string;
    readonly loss: number;
    readonly accuracy: number;
    readonly perplexity?: number;
    readonly confusion: readonly (readonly number[])[];
  }[];
  readonly changes: readonly { readonly mended: number; readonly broken: number }[];
}

describe("lowrank eval", () => {
  it("measures base and adapters side by side, and leaves a folder", async () => {
    const { stdout } = await done(
      "eval base/model.onnx --data test.csv --adapter first/best --adapter second/best --out measured --json",
    );
    expect(stdout).toBe(readFileSync(join(work, "measured", "summary.json"), "utf8"));
    expect(schemaFaults("eval-summary", JSON.parse(stdout))).toEqual([]);
    const { results, changes } = JSON.parse(stdout) as Summary;
    expect(results.map(({ name }) => name)).toEqual(["base", "first/best", "second/best"]);
    const [base, first] = [results[0]!, results[1]!];
    expect(base.accuracy).toBeLessThan(0.1);
    expect(first.accuracy).toBeGreaterThan(0.9);
    expect(first.loss).toBeLessThan(base.loss);
    for (const { accuracy, confusion } of results) {
      expect(confusion.flat().reduce((sum, cell) => sum + cell, 0)).toBe(200);
      expect(confusion.reduce((sum, row, at) => sum + row[at]!, 0) / 200).toBeCloseTo(accuracy, 12);
    }
    expect((changes[0]!.mended - changes[0]!.broken) / 200).toBeCloseTo(first.accuracy - base.accuracy, 12);
    const files = [".lowrank-run", "config.json", "env.json", "metrics.jsonl", "report.html", "summary.json"];
    expect(filesBelow(join(work, "measured"))).toEqual(files);
  });

  it("prints a table of them, of the classes, and of what is read otherwise", async () => {
    const { stdout } = await done("eval base/model.onnx --data test.csv --adapter first/best --out shown");
    expect(stdout).toMatch(/^ +loss +accuracy +mended +broken$/m);
    expect(stdout).toMatch(/^base +\d\.\d{4} +\d\.\d\d %$/m);
    expect(stdout).toMatch(/^class +examples +base right +best right$/m);
    expect(stdout).toMatch(/^Read otherwise with best, the first 10 of \d+:$/m);
  });

  it("gives a decoder's perplexity", async () => {
    writeFileSync(join(work, "texts.jsonl"), '{"text":"the quick brown fox"}\n{"text":"jumps over"}\n');
    const { stdout } = await done("eval text/decoder.onnx --data texts.jsonl --out language --json");
    expect(schemaFaults("eval-summary", JSON.parse(stdout))).toEqual([]);
    const { results } = JSON.parse(stdout) as Summary;
    expect(results[0]!.perplexity).toBeCloseTo(Math.exp(results[0]!.loss), 9);
    // Random weights know next to nothing of 300 tokens.
    expect(results[0]!.loss).toBeGreaterThan(5);
    expect(results[0]!.loss).toBeLessThan(6.5);
  });

  it("says what is missing or wrong, and writes nothing", async () => {
    const before = filesBelow(work);
    for (const [command, message] of [
      ["eval base/model.onnx", /--data: expected a file or folder/],
      ["eval base/model.onnx --data test.csv --adapter nowhere", /nowhere/],
      ["eval base/model.onnx --data test.csv --map x", /expected input=column, got "x"/],
      ["eval text/decoder.onnx --data test.csv", /expected columns|text/],
    ] as const) {
      const { code, stderr } = await run(command);
      expect([1, 2]).toContain(code);
      expect(stderr).toMatch(message);
    }
    expect(filesBelow(work)).toEqual(before);
  });
});

describe("lowrank predict", () => {
  it("writes a line for each row, in their order", async () => {
    const { stdout } = await done("predict base/model.onnx --data test.csv --adapter first/best");
    const lines = linesOf<Line>(stdout);
    expect(lines.flatMap((line) => schemaFaults("prediction", line))).toEqual([]);
    const labels = clusterRows({ ...points, rows: 200, seed: 3, turn: 1 }).map((row) => row.at(-1));
    expect(lines.map(({ index }) => index)).toEqual(labels.map((_, index) => index));
    expect(lines.filter(({ label }, at) => label === labels[at]).length).toBeGreaterThan(180);
    for (const { probability, probabilities, label } of lines) {
      expect(probability).toBe(probabilities[label]);
      expect(Object.values(probabilities).reduce((sum, one) => sum + one, 0)).toBeCloseTo(1, 9);
    }
  });

  it("goes on from a prompt, the same for the same seed, and ends before a stop text", async () => {
    const prompt = ["--prompt", "the quick brown"];
    const greedy = await done("predict text/decoder.onnx --max-new-tokens 12", ...prompt);
    expect(greedy.stdout.endsWith("\n")).toBe(true);
    const drawn = "predict text/decoder.onnx --max-new-tokens 12 --temperature 1 --seed 4";
    const [one, two] = [await done(drawn, ...prompt), await done(drawn, ...prompt)];
    expect(one.stdout).toBe(two.stdout);
    expect(one.stdout).not.toBe(greedy.stdout);
    const text = one.stdout.slice(0, -1);
    expect(text.length).toBeGreaterThan(8);
    const stop = text.slice(5, 8);
    const { stdout } = await done(drawn, ...prompt, "--stop", stop, "--json");
    expect(linesOf(stdout).flatMap((line) => schemaFaults("prediction", line))).toEqual([]);
    expect(linesOf(stdout)).toEqual([{ prompt: "the quick brown", text: text.slice(0, text.indexOf(stop)) }]);
  });

  it("goes on from each row of data", async () => {
    writeFileSync(join(work, "prompts.jsonl"), '{"prompt":"the"}\n{"prompt":"quick"}\n');
    const { stdout } = await done("predict text/decoder.onnx --data prompts.jsonl --max-new-tokens 3");
    expect(linesOf<{ prompt: string }>(stdout).map(({ prompt }) => prompt)).toEqual(["the", "quick"]);
  });

  it("gives all labels that are likely enough, where a model was trained on labels that hold or not", async () => {
    const rows = clusterRows({ ...points, rows: 300, seed: 1 }).map((row) => {
      const label = row.at(-1)!;
      return { x: row.slice(0, -1), labels: [label === 0, label < 2, label === 3].map(Number) };
    });
    writeJsonLines(work, "tags.jsonl", rows);
    await done(
      "pretrain --layers 12,32,3 --data tags.jsonl --loss bce --learning-rate 0.02 --epochs 12 --out tags --threads 1",
    );
    interface Tagged {
      readonly labels: readonly number[];
      readonly probabilities: Readonly<Record<string, number>>;
    }
    const predicted = async (...more: string[]): Promise<Tagged[]> => {
      const lines = linesOf<Tagged>((await done("predict tags/model.onnx --data tags.jsonl", ...more)).stdout);
      expect(lines.flatMap((line) => schemaFaults("prediction", line))).toEqual([]);
      return lines;
    };
    const found = await predicted();
    const wanted = rows.map(({ labels }) => labels.flatMap((holds, at) => (holds === 1 ? [at] : [])));
    const right = found.filter(({ labels }, at) => [...labels].sort().join() === wanted[at]!.join());
    expect(right.length).toBeGreaterThan(285);
    for (const { labels, probabilities } of await predicted("--threshold", "0.99")) {
      expect([...labels].sort().map(String)).toEqual(
        Object.keys(probabilities).filter((at) => probabilities[at]! >= 0.99),
      );
    }
    const measured = await done("eval tags/model.onnx --data tags.jsonl --loss bce --out tagged --json");
    expect(schemaFaults("eval-summary", JSON.parse(measured.stdout))).toEqual([]);
    expect(JSON.parse(measured.stdout)).toMatchObject({ kind: "binary", loss: "bce_with_logits" });
    writeJsonLines(
      work,
      "numbers.jsonl",
      rows.map(({ x }) => ({ x })),
    );
    const plain = linesOf((await done("predict base/model.onnx --data numbers.jsonl --limit 2 --threshold 0")).stdout);
    expect(plain.map((line) => schemaFaults("prediction", line))).toEqual([[], []]);
    expect(plain[0]).toMatchObject({ index: 0, labels: expect.arrayContaining([0, 1, 2, 3]) as unknown });
  });

  it.each([
    ["predict base/model.onnx", "expected --data or --prompt, got neither"],
    ["predict base/model.onnx --data test.csv --prompt hello", "got both"],
    ["predict base/model.onnx --data test.csv --adapter a --adapter b", "--adapter: expected one, got 2"],
    ["predict base/model.onnx --prompt hello", "--tokenizer: expected a Hugging Face tokenizer.json"],
  ])("%s: %s", async (command, message) => {
    const { code, stderr } = await run(command);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});

describe("lowrank runs", () => {
  it("lists them", async () => {
    const { stdout } = await done("runs .");
    expect(stdout).toMatch(/^run +verb +data +steps +best +time +state$/m);
    expect(stdout).toMatch(/^first +tune +special\.csv +\d+ +target\/accuracy [\d.]+ +\S+ m?s +complete$/m);
    expect(stdout).toMatch(/^base +pretrain +general\.csv/m);
  });

  it("compares two, as a table and on a page", async () => {
    const { stdout } = await done("runs compare first second --html compared.html");
    expect(stdout).toMatch(/^ +first +second$/m);
    expect(stdout).toMatch(/^r +8 +2$/m);
    expect(stdout).toMatch(/^epochs +6 +1$/m);
    const page = readFileSync(join(work, "compared.html"), "utf8");
    expect(page).toContain("2 runs compared");
    expect(page.match(/<polyline class="line series-b"/g)!.length).toBeGreaterThanOrEqual(4);
    expect(page).not.toMatch(/https?:\/\//);
  });

  it("writes a run's report again, the same", async () => {
    const path = join(work, "first", "report.html");
    const before = readFileSync(path, "utf8");
    for (const word of ["Learning rate", "Accuracy", "Which class was taken for which", "now right"]) {
      expect(before).toContain(word);
    }
    writeFileSync(path, "");
    await done("runs report first");
    expect(readFileSync(path, "utf8")).toBe(before);
  });

  it("print and leave JSON that fits the published schemas, which refuse anything else", async () => {
    const read = (...path: string[]): Record<string, unknown> =>
      JSON.parse(readFileSync(join(work, ...path), "utf8")) as Record<string, unknown>;
    const list = JSON.parse((await done("runs . --json")).stdout) as Record<string, unknown>[];
    expect(list.length).toBeGreaterThan(4);
    const compared: unknown = JSON.parse((await done("runs compare first second --json")).stdout);
    const fitting: [string, unknown][] = [
      ["runs", list],
      ["runs", compared],
      ["run-summary", read("base", "summary.json")],
      ["run-summary", read("first", "summary.json")],
      ["run-summary", read("tags", "summary.json")],
      ["evaluation", read("base", "evaluation.json")],
      ["evaluation", read("first", "evaluation.json")],
    ];
    for (const [name, value] of fitting) {
      expect(schemaFaults(name, value), name).toEqual([]);
      const more = Array.isArray(value) ? [{ ...(value[0] as object), more: 1 }] : { ...(value as object), more: 1 };
      expect(schemaFaults(name, more), name).not.toEqual([]);
    }
    const { results, ...less } = read("first", "evaluation.json");
    expect(results).toHaveLength(2);
    expect(schemaFaults("evaluation", less)).toEqual([" must have required property 'results'"]);
    expect(schemaFaults("prediction", { index: 0, label: "a", probability: 2 })).not.toEqual([]);
  });

  it("leaves event files where they were asked for", () => {
    const events = (folder: string): string[] =>
      filesBelow(join(work, folder)).filter((name) => name.includes("tfevents"));
    expect(events("first")).toHaveLength(1);
    expect(readFileSync(join(work, "first", events("first")[0]!)).includes("target/accuracy")).toBe(true);
    expect(events("second")).toEqual([]);
  });
});
