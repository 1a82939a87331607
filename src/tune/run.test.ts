// What a run leaves when something gives way in the middle: the disk, the data, the numbers. The last good checkpoint is intact,
// the error says how to go on, and going on ends where an unbroken run does.
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LowrankError } from "../errors.ts";
import { createRandom } from "../random.ts";
import { isEventFile } from "../runs/tensorboard.ts";
import { decodeEvents } from "../runs/testing/events.ts";
import { readCheckpoint } from "../train/checkpoint.ts";
import type { RunOptions } from "./option-table.ts";
import type { RunResult } from "./result.ts";
import { runPretrain } from "./run.ts";
import { runEval } from "./run-eval.ts";
import { runPredict } from "./run-predict.ts";
import { resolveOptions } from "./settings.ts";
import { silentVoice, type Voice } from "./voice.ts";

/** Files of this name cannot be written after so many times. */
const disk = vi.hoisted(() => ({ name: "", left: Number.POSITIVE_INFINITY }));

vi.mock("../runs/files.ts", async (importOriginal) => {
  const files = await importOriginal<typeof import("../runs/files.ts")>();
  const { fileError } = await import("../runs/file-error.ts");
  return {
    ...files,
    writeFileAtomic: (path: string, content: Uint8Array) => {
      if (disk.name !== "" && path.endsWith(disk.name) && disk.left-- <= 0) {
        throw fileError(path, "write", Object.assign(new Error("ENOSPC"), { code: "ENOSPC", syscall: "write" }));
      }
      return files.writeFileAtomic(path, content);
    },
  };
});

/** What data files may keep in memory. */
const memory = vi.hoisted(() => ({ bytes: 2 ** 28 }));

vi.mock("../data/formats/kept-blocks.ts", async (importOriginal) => ({
  ...(await importOriginal<typeof import("../data/formats/kept-blocks.ts")>()),
  get defaultMemoryBytes() {
    return memory.bytes;
  },
}));

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-run-"));
  writeRows("rows.jsonl", 0);
});

/** Examples; `note` characters beside each, since the blocks of small files stay. */
function writeRows(name: string, note: number): void {
  const random = createRandom(3, "rows");
  const rows = Array.from({ length: 200 }, (_, index) => ({
    x: Array.from({ length: 4 }, () => random.normal() + (index % 2)),
    label: index % 2,
    note: "n".repeat(note),
  }));
  writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}
afterEach(() => {
  disk.name = "";
  memory.bytes = 2 ** 28;
  rmSync(folder, { recursive: true, force: true });
});

function options(out: string, more: Record<string, string | boolean> = {}): RunOptions {
  return resolveOptions("pretrain", {
    layers: ["4,8,2"],
    data: [join(folder, "rows.jsonl")],
    out: join(folder, out),
    learningRate: "0.01",
    threads: "1",
    epochs: "4",
    batchSize: "20",
    ...more,
  });
}

async function failure(run: Promise<RunResult>): Promise<LowrankError> {
  const error: unknown = await run.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  );
  if (error instanceof LowrankError) return error;
  throw error;
}

const bytes = (...path: string[]): Buffer => readFileSync(join(folder, ...path));

describe("config.json", () => {
  it("holds what was decided for options that were left open", async () => {
    await runPretrain(options("open", { learningRate: undefined as never, epochs: "1" }));
    const config = JSON.parse(String(bytes("open", "config.json"))) as Record<string, unknown>;
    expect(config).toMatchObject({ learningRate: 1e-4, loss: "cross_entropy", metric: "accuracy", evalEpochs: 1 });
    const again = resolveOptions("pretrain", {}, { where: "config.json", values: config });
    await runPretrain({ ...again, out: join(folder, "again") });
    expect(bytes("again", "model.onnx")).toEqual(bytes("open", "model.onnx"));
  });

  it("has evaluations every so many passes", async () => {
    const { summary } = await runPretrain(options("passes", { evalEpochs: "2" }));
    const lines = String(bytes("passes", "metrics.jsonl")).trimEnd().split("\n");
    const steps = lines.map((line) => JSON.parse(line) as { kind: string; step: number });
    expect(steps.filter(({ kind }) => kind === "evaluation").map(({ step }) => step)).toEqual([0, 18, 36]);
    expect(summary.steps).toBe(36);
  });
});

describe("rows that cannot be read", () => {
  it("are counted in every file of a run", async () => {
    writeFileSync(join(folder, "held.jsonl"), '{"x":[1,1,1,1],"label":0}\nbroken\n{"x":[1],"label":1}\n');
    const warnings: string[] = [];
    const { summary } = await runPretrain(
      options("counted", { evalData: join(folder, "held.jsonl"), onBadRow: "skip", epochs: "1" }),
      { voice: { ...silentVoice, warn: (text) => warnings.push(text) } },
    );
    expect(summary.data.rows).toMatchObject({ target: 1, skipped: 2 });
    expect(warnings.slice(0, 2)).toEqual([
      expect.stringMatching(/^1 row was left out: .*held\.jsonl:2: expected a JSON object/),
      expect.stringMatching(/^1 row was left out: .*held\.jsonl:3: x: expected 4 numbers/),
    ]);
  });
});

describe("answers and measurements", () => {
  it("name rows by their place in the file, whatever was left out before them", async () => {
    await runPretrain(options("base", { epochs: "1" }));
    const rows = ["x", "[1,1,1,1]", "[9]", "[2,2,2,2]", "[3,3,3,3]"].map((x, id) => `{"x":${x},"label":0,"id":${id}}`);
    writeFileSync(join(folder, "new.jsonl"), rows.join("\n"));
    const flags = {
      model: join(folder, "base", "model.onnx"),
      data: [join(folder, "new.jsonl")],
      filter: ["id>1"],
      onBadRow: "skip",
    };
    const lines: string[] = [];
    const warnings: string[] = [];
    const context = { write: (line: string) => lines.push(line), warn: (line: string) => warnings.push(line) };
    await runPredict(resolveOptions("predict", { ...flags, batchSize: "1" }), context);
    expect(lines.map((line) => (JSON.parse(line) as { index: number }).index)).toEqual([3, 4]);
    expect(warnings).toEqual([
      expect.stringMatching(/^2 rows were left out: .*new\.jsonl:1: .*new\.jsonl:3: x: expected 4/),
    ]);
    const { summary, folder: run } = await runEval(resolveOptions("eval", { ...flags, out: join(folder, "measured") }));
    const wrong = summary.results[0]!.wrong!.map(({ index }) => index);
    expect(wrong.every((index) => index === 3 || index === 4)).toBe(true);
    expect(readFileSync(join(run, "report.html"), "utf8")).toContain("The base, and each adapter on it");
  });
});

describe("a run that something ends", () => {
  it("a full disk at a checkpoint: the one before is whole, and the run goes on from it to the same end", async () => {
    await runPretrain(options("whole"));
    Object.assign(disk, { name: "checkpoint.safetensors", left: 2 });
    const error = await failure(runPretrain(options("full")));
    expect(error.code).toBe("file");
    expect(error.message).toMatch(
      /checkpoint\.safetensors: cannot write: no space left on device; .*; the checkpoint of step 18 is intact; go on with the same command, --resume and --out /,
    );
    expect(readCheckpoint(bytes("full", "checkpoint.safetensors")).step).toBe(18);
    disk.name = "";
    const { summary } = await runPretrain(options("full", { resume: true }));
    expect(summary.complete).toBe(true);
    expect(bytes("full", "model.onnx")).toEqual(bytes("whole", "model.onnx"));
  });

  it("a full disk at the very end: nothing that was trained is lost", async () => {
    Object.assign(disk, { name: "model.onnx", left: 0 });
    const error = await failure(runPretrain(options("full")));
    expect(error.message).toMatch(/model\.onnx: cannot write: .*; the checkpoint of step 36 is intact/);
    disk.name = "";
    const { summary } = await runPretrain(options("full", { resume: true }));
    expect(summary).toMatchObject({ complete: true, steps: 36, end: "steps" });
  });

  it("event files of a run that broke down and was gone on with show each step once", async () => {
    const seen = (name: string): string[] =>
      readdirSync(join(folder, name))
        .filter(isEventFile)
        .sort()
        .flatMap((file) => decodeEvents(join(folder, name, file)))
        .flatMap(({ step, values }) => values.map(([tag, value]) => `${step} ${tag} ${value}`));
    await runPretrain(options("whole", { tensorboard: true }));
    Object.assign(disk, { name: "checkpoint.safetensors", left: 2 });
    await failure(runPretrain(options("full", { tensorboard: true })));
    expect(seen("full").filter((line) => line.startsWith("27 "))).not.toEqual([]);
    disk.name = "";
    await runPretrain(options("full", { resume: true, tensorboard: true }));
    const whole = seen("whole");
    expect(whole.filter((line) => / loss /.test(line))).toHaveLength(36);
    expect(seen("full")).toEqual(whole);
  });

  it("before the first checkpoint, there is none to go on from", async () => {
    Object.assign(disk, { name: "checkpoint.safetensors", left: 0 });
    const error = await failure(runPretrain(options("full")));
    expect(error.message).toMatch(/; there is no checkpoint yet$/);
  });

  it("data that is cut off while it is read: an error that names the file, and the checkpoint", async () => {
    writeRows("rows.jsonl", 80_000);
    memory.bytes = 0;
    let done = 0;
    const voice: Voice = {
      ...silentVoice,
      progress: () => ({
        update: (step) => {
          done = step;
          if (step === 20) truncateSync(join(folder, "rows.jsonl"), 10);
        },
        done() {},
        clear() {},
      }),
    };
    const error = await failure(runPretrain(options("cut"), { voice }));
    expect(done).toBeLessThan(36);
    expect(error.message).toMatch(/rows\.jsonl/);
    expect(error.message).toMatch(/the checkpoint of step \d+ is intact; go on/);
    expect(readCheckpoint(bytes("cut", "checkpoint.safetensors")).step).toBeGreaterThan(0);
  });

  it("infinity in the gradients: no checkpoint is written over the good one", async () => {
    await runPretrain(options("broken", { epochs: "1", schedule: "constant" }));
    const good = bytes("broken", "checkpoint.safetensors");
    const warnings: string[] = [];
    const voice = { ...silentVoice, warn: (text: string) => void warnings.push(text) };
    const mad = options("broken", { resume: true, schedule: "constant", learningRate: "1e30", clip: "0" });
    const error = await failure(runPretrain(mad, { voice }));
    expect(error.code).toBe("data");
    expect(error.message).toMatch(/the checkpoint of step 9 is intact/);
    expect(bytes("broken", "checkpoint.safetensors")).toEqual(good);
    expect(warnings.some((text) => text.startsWith("--learning-rate: expected 0.01, as the run began"))).toBe(true);
  });

  it("a model or an adapter that cannot be trained: nothing is left behind", async () => {
    const error = await failure(runPretrain(options("never", { loss: "mse", labelSmoothing: "0.1" })));
    expect(error.code).toBe("config");
    expect(() => bytes("never", "config.json")).toThrow("ENOENT");
  });
});
