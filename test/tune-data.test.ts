// `lowrank tune` and `pretrain` on the data that people have: texts by a tokenizer, class names, faulty rows, replay, numbers to be
// predicted; and the ways of adapting and training, each of which has to learn.
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { labelsOfModel, loadModel, type RunSummary, readSafetensors } from "lowrank";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { writeSmallMnist } from "./support/digits.ts";
import { root, temporaryFolder } from "./support/folders.ts";
import { writePictures } from "./support/pictures.ts";
import { clusterRows, writeClusters } from "./support/tables.ts";
import { opinions, writeJsonLines, writeWordTokenizer } from "./support/texts.ts";

const work = temporaryFolder();

function run(command: string, ...more: string[]): Promise<Ended> {
  return lowrank([...command.split(" "), ...more, "--threads", "1"], { cwd: work });
}

async function finished(command: string, ...more: string[]): Promise<RunSummary> {
  const ended = await run(command, ...more, "--json");
  expect(ended.code, ended.stderr).toBe(0);
  return JSON.parse(ended.stdout) as RunSummary;
}

function keysOf(folder: string): string[] {
  const bytes = readFileSync(join(work, folder, "adapter_model.safetensors"));
  return [...readSafetensors(bytes, folder).tensors.keys()];
}

beforeAll(() => {
  for (const name of ["gpt2", "distilbert"]) {
    copyFileSync(join(root, "test", "fixtures", "golden", name, "base.onnx"), join(work, `${name}.onnx`));
  }
  writeWordTokenizer(work);
  writeJsonLines(work, "opinions.jsonl", opinions());
});

describe("texts", () => {
  it("classifies: names of classes become numbers, and go with the adapter", async () => {
    const { before, after, data, loss } = await finished(
      "tune distilbert.onnx --data opinions.jsonl --max-length 16 --learning-rate 0.005 --epochs 8 --out sentiment",
    );
    expect(loss).toBe("cross_entropy");
    expect(before!["target/accuracy"]).toBeLessThan(0.8);
    expect(after!["target/accuracy"]).toBeGreaterThan(0.95);
    expect(data.labels).toEqual(["bad", "good"]);
    expect(JSON.parse(readFileSync(join(work, "sentiment", "adapter", "labels.json"), "utf8"))).toEqual([
      "bad",
      "good",
    ]);
  });

  it("puts a fresh head on, trains it whole, and leaves the model that the adapter belongs to", async () => {
    const { after, files } = await finished(
      "tune distilbert.onnx --data opinions.jsonl --max-length 16 --learning-rate 0.005 --epochs 8 --out headed",
      ..."--head 2 --pooling mean --merge".split(" "),
    );
    expect(after!["target/accuracy"]).toBeGreaterThan(0.95);
    expect(files).toMatchObject({ base: "base.onnx", merged: "merged.onnx" });
    expect(labelsOfModel(await loadModel(join(work, "headed", "base.onnx")))).toEqual(["bad", "good"]);
    expect(labelsOfModel(await loadModel(join(work, "headed", "merged.onnx")))).toEqual(["bad", "good"]);
    const keys = keysOf("headed/adapter");
    expect(keys).toContain("base_model.model.classifier.weight");
    expect(keys.filter((key) => /\.classifier\..*lora/.test(key))).toEqual([]);
    const config = JSON.parse(readFileSync(join(work, "headed", "adapter", "adapter_config.json"), "utf8")) as object;
    expect(config).toMatchObject({ task_type: "SEQ_CLS", modules_to_save: ["classifier"] });
  });

  it("goes on with a text: loss on completions alone, and the same end when it was interrupted", async () => {
    const rows = opinions().map(({ text, label }) => ({ prompt: `${text} and`, completion: ` ${label}` }));
    writeJsonLines(work, "completions.jsonl", rows);
    const command =
      "tune gpt2.onnx --data completions.jsonl --max-length 12 --learning-rate 0.02 --schedule constant --checkpoint-every 7 --out";
    const { before, after, loss } = await finished(`${command} decoder --steps 60`);
    expect(loss).toBe("causal_lm");
    expect(before!["target/accuracy"]).toBeLessThan(0.2);
    expect(after!["target/accuracy"]).toBeGreaterThan(0.8);
    expect(after!["target/loss"]).toBeLessThan(0.7 * before!["target/loss"]!);
    await finished(`${command} parts --steps 12 --resume --warmup 1`);
    await finished(`${command} unbroken --steps 30 --warmup 1`);
    const resumed = await run(`${command} parts --steps 30 --resume --warmup 1`);
    expect(resumed.stderr).toContain("--steps: expected 12, as the run began, got 30; the end will not be");
    const adapter = (folder: string): string =>
      readFileSync(join(work, folder, "adapter", "adapter_model.safetensors")).toString("base64");
    expect(adapter("parts")).toBe(adapter("unbroken"));
  });

  it("packs short texts into full rows", async () => {
    writeJsonLines(
      work,
      "texts.jsonl",
      opinions().map(({ text }) => ({ text })),
    );
    const { before, after, data } = await finished(
      "tune gpt2.onnx --data texts.jsonl --max-length 12 --packing --learning-rate 0.01 --epochs 2 --out packed",
    );
    expect(data.matches[0]).toMatchObject({ input: "input_ids", shape: [32, 12] });
    expect(after!["target/loss"]).toBeLessThan(before!["target/loss"]!);
  });

  it("says where it looked for a tokenizer", async () => {
    const ended = await run("tune gpt2.onnx --data texts.jsonl --tokenizer elsewhere/tokenizer.json");
    expect(ended.code).toBe(1);
    expect(ended.stderr).toContain("lowrank: elsewhere/tokenizer.json: not found");
  });
});

describe("a folder of images by class", () => {
  it("tunes a network that takes pictures, with the folders' names as classes", async () => {
    await writePictures(join(work, "pictures"), { perClass: 20 });
    const { before, after, data } = await finished(
      "pretrain --layers 64,16,2 --data pictures --mean 0.5 --std 0.5 --learning-rate 0.02 --batch-size 8 --epochs 6 --out shapes",
    );
    expect(data.labels).toEqual(["horizontal", "vertical"]);
    expect(before!["target/accuracy"]).toBeLessThan(1);
    expect(after!["target/accuracy"]).toBe(1);
    expect(labelsOfModel(await loadModel(join(work, "shapes", "model.onnx")))).toEqual(["horizontal", "vertical"]);
  });
});

describe("images of another domain", () => {
  it("are made of the data's by name, and left as they are in what is retained", async () => {
    writeSmallMnist(join(work, "digits"), { train: 100, test: 20 });
    const [train, test] = ["digits/train-images-idx3-ubyte.gz", "digits/t10k-images-idx3-ubyte.gz"];
    await finished(`pretrain --layers 784,32,10 --data ${train} --learning-rate 0.003 --epochs 6 --out upright`);
    const command = `tune upright/model.onnx --data ${train} --eval-data ${test} --retained-data ${test}`;
    const rest = "--learning-rate 0.005 --epochs 8 --out turned";
    const { before, after } = await finished(`${command} --transform rotation:90 ${rest}`);
    expect(before!["target/accuracy"]).toBeLessThan(before!["retained/accuracy"]! - 0.3);
    expect(after!["target/accuracy"]).toBeGreaterThan(before!["target/accuracy"]! + 0.3);
    const measured = await run(
      `eval upright/model.onnx --data ${test} --adapter turned/adapter --json --transform rotation:90`,
    );
    expect(measured.code, measured.stderr).toBe(0);
    const { results } = JSON.parse(measured.stdout) as { results: { accuracy: number }[] };
    expect(results.map(({ accuracy }) => accuracy)).toEqual([before!["target/accuracy"], after!["target/accuracy"]]);
    const answers = async (more: string) => (await run(`predict upright/model.onnx --data ${test} ${more}`)).stdout;
    const turned = await answers("--adapter turned/adapter --transform rotation:90");
    expect(turned.trim().split("\n")).toHaveLength(200);
    expect(turned).not.toBe(await answers("--adapter turned/adapter"));
    const wrong = await run(`${command} --transform inverted --out none`);
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("transform: expected one of identity, ")]);
    const texts = await run("tune distilbert.onnx --data opinions.jsonl --transform fog:1 --out none");
    expect([texts.code, texts.stderr]).toEqual([
      2,
      expect.stringMatching(/transform fog:1: expected images .*, got text, label/),
    ]);
  });
});

describe("tables", () => {
  const points = { features: 6, classes: 3 };
  beforeAll(async () => {
    writeClusters(work, "general.csv", { ...points, rows: 300, seed: 1 });
    writeClusters(work, "special.csv", { ...points, rows: 300, seed: 2, turn: 1 });
    await finished("pretrain --layers 6,24,3 --data general.csv --out base --learning-rate 0.02 --epochs 4");
  });

  it("stops at faulty rows with file and line, or counts, names and leaves them out", async () => {
    const lines = readFileSync(join(work, "special.csv"), "utf8").split("\n");
    lines[3] = lines[3]!.replace(/^[^,]+/, "NaN");
    lines[9] = lines[9]!.replace(/\d$/, "7");
    writeFileSync(join(work, "faulty.csv"), lines.join("\n"));
    const stopped = await run("tune base/model.onnx --data faulty.csv --out never");
    expect(stopped.code).toBe(1);
    expect(stopped.stderr).toMatch(/faulty\.csv:4: .*x0.*\n.*faulty\.csv:10: label: expected a class, 0 to 2/s);
    expect(existsSync(join(work, "never"))).toBe(false);
    const skipped = await run(
      "tune base/model.onnx --data faulty.csv --split 0 --on-bad-row skip --out skipped --json",
    );
    expect(skipped.code, skipped.stderr).toBe(0);
    expect(skipped.stderr).toMatch(/warning: 2 rows were left out: .*faulty\.csv:4/);
    expect((JSON.parse(skipped.stdout) as RunSummary).data.rows).toMatchObject({ train: 298, skipped: 2 });
  });

  it("refuses labels that are no numbers for each output, and writes nothing", async () => {
    const { code, stderr } = await run("tune base/model.onnx --data special.csv --loss bce --out never");
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/labels: expected 3 numbers for each row, as the model's output has, got 1; the loss bce/),
    ]);
    expect(existsSync(join(work, "never"))).toBe(false);
  });

  it("trains on what filters leave, and keeps what is replayed", async () => {
    const command =
      "tune base/model.onnx --data special.csv --retained-data general.csv --learning-rate 0.05 --epochs 6";
    const alone = await finished(`${command} --out alone`, "--filter", "label=1");
    const replayed = await finished(`${command} --out replayed --replay general.csv=0.5`, "--filter", "label=1");
    // Only the points of one class are called 1 there: those that the base calls 0.
    expect(alone.data.rows.train + alone.data.rows.target).toBe(100);
    expect(replayed.data.rows.replay).toBe(300);
    expect(replayed.data.matches[0]!.shape).toEqual([32, 6]);
    expect(replayed.after!["retained/accuracy"]).toBeGreaterThan(alone.after!["retained/accuracy"]! + 0.2);
  });

  it("predicts numbers: the loss is mse, and falls", async () => {
    const rows = clusterRows({ ...points, rows: 200, seed: 4 }).map((row) => [
      ...row.slice(0, 6),
      row[0]! - 2 * row[1]! + 0.5,
    ]);
    const header = "x0,x1,x2,x3,x4,x5,target";
    writeFileSync(join(work, "numbers.csv"), `${[header, ...rows.map((row) => row.join(","))].join("\n")}\n`);
    const { loss, before, after, best } = await finished(
      "pretrain --layers 6,1 --data numbers.csv --learning-rate 0.1 --schedule cosine --epochs 20 --out numbers",
    );
    expect(loss).toBe("mse");
    expect(best!.metric).toBe("target/loss");
    expect(after!["target/loss"]).toBeLessThan(before!["target/loss"]! / 50);
  });

  it.each([
    ["DoRA and biases", "--use-dora --bias lora_only"],
    ["PiSSA", "--init-lora-weights pissa"],
    ["EVA", "--init-lora-weights eva --r 2"],
    ["a moving average", "--ema 0.5"],
    ["LoRA+", "--lora-plus-ratio 4 --learning-rate 0.005"],
    ["Adafactor", "--optimizer adafactor --learning-rate 0.3"],
    ["one cycle", "--schedule one-cycle"],
  ])("learns with %s", async (name, flags) => {
    const folder = name.replaceAll(" ", "-").toLowerCase();
    const { before, after } = await finished(
      `tune base/model.onnx --data special.csv --epochs 6 --out ${folder} ${flags.includes("rate") ? "" : "--learning-rate 0.02 "}${flags}`,
    );
    expect(before!["target/accuracy"]).toBeLessThan(0.2);
    expect(after!["target/accuracy"]).toBeGreaterThan(0.85);
  });

  it("stops early when nothing gets better", async () => {
    const { end, steps } = await finished(
      "tune base/model.onnx --data general.csv --learning-rate 1e-7 --epochs 30 --patience 2 --metric loss --min-delta 0.01 --out early",
    );
    expect(end).toBe("patience");
    expect(steps).toBeLessThan(60);
  });
});
