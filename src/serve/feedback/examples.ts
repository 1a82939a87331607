// Labelled examples that clients send, kept in a file beside the adapter that they are for: one line of JSON each, appended. An
// example's digest says whether it is there already, and on which side of the split it lies for ever: what an adapter is judged
// on is never what one before it has learnt.
import { createHash } from "node:crypto";
import { type FileHandle, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { errorCode } from "../../runs/file-error.ts";
import { elementCount } from "../../tensor.ts";
import type { Description } from "../engine.ts";
import { assertOwn } from "../inside.ts";
import { shortened } from "../names.ts";
import { ServeError } from "../serve-error.ts";

/** As a client sends it, and as a line holds it. */
export interface Example {
  /** One row of each of the model's inputs, flat. */
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  /** The number of the class, or the numbers that the model should give. */
  readonly label: number | readonly number[];
}

/** Which examples are learnt, by which an epoch is chosen, and by which the result is judged. */
export type Side = "train" | "choose" | "judge";

export interface StoredExample extends Example {
  readonly side: Side;
}

/** The file in the adapter's folder. */
export const examplesFile = "examples.jsonl";

export interface BoxLimits {
  readonly maxExamples: number;
  readonly maxBytes: number;
}

export interface Counts {
  readonly train: number;
  readonly choose: number;
  readonly judge: number;
}

/** The examples of one adapter. Writes take turns. */
export class ExampleBox {
  readonly #path: string;
  readonly #limits: BoxLimits;
  #known: Promise<Map<string, Side>> | undefined;
  #bytes = 0;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(folder: string, limits: BoxLimits) {
    this.#path = join(folder, examplesFile);
    this.#limits = limits;
  }

  /**
   * Adds those that are new, all or none. Returns how many were.
   *
   * @throws ServeError 429 when there would be more than may be kept, 400 when a link is where the file would be.
   */
  add(examples: readonly Example[]): Promise<number> {
    return this.#next(async () => {
      const known = await this.#load();
      const lines = new Map<string, string>();
      for (const example of examples) {
        const line = JSON.stringify({ inputs: example.inputs, label: example.label });
        const digest = digestOf(line);
        if (!known.has(digest)) lines.set(digest, line);
      }
      const text = Array.from(lines.values(), (line) => `${line}\n`).join("");
      const { maxExamples, maxBytes } = this.#limits;
      if (known.size + lines.size > maxExamples || this.#bytes + text.length > maxBytes) {
        throw new ServeError(
          429,
          `expected at most ${maxExamples} examples in ${maxBytes} bytes, there are ${known.size} already; delete them, or see --max-examples`,
        );
      }
      await this.#append(text);
      for (const digest of lines.keys()) known.set(digest, sideOf(digest));
      return lines.size;
    });
  }

  async counts(): Promise<Counts> {
    const counts = { train: 0, choose: 0, judge: 0 };
    for (const side of (await this.#next(() => this.#load())).values()) counts[side]++;
    return counts;
  }

  /** Removes all of them. */
  clear(): Promise<void> {
    return this.#next(async () => {
      await rm(this.#path, { force: true });
      this.#known = undefined;
      this.#bytes = 0;
    });
  }

  /** All of them, in the order in which they came. */
  read(): Promise<StoredExample[]> {
    return this.#next(() => readExamples(this.#path));
  }

  #next<T>(action: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(action);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  /** The digests of what is there. */
  #load(): Promise<Map<string, Side>> {
    this.#known ??= linesOf(this.#path).then(
      (lines) => {
        this.#bytes = lines.reduce((sum, line) => sum + line.length + 1, 0);
        return new Map(lines.map((line) => [digestOf(line), sideOf(digestOf(line))]));
      },
      (error: unknown) => {
        this.#known = undefined;
        throw error;
      },
    );
    return this.#known;
  }

  async #append(text: string): Promise<void> {
    if (text === "") return;
    await assertOwn(this.#path, "file");
    const file: FileHandle = await open(this.#path, "a+");
    try {
      const { size } = await file.stat();
      // A process that was killed may have left half a line, which must not become the beginning of this one.
      const last = Buffer.alloc(1);
      if (size > 0) await file.read(last, 0, 1, size - 1);
      const start = size > 0 && last[0] !== 0x0a ? "\n" : "";
      await file.appendFile(start + text);
      this.#bytes += text.length;
    } finally {
      await file.close();
    }
  }
}

async function linesOf(path: string): Promise<string[]> {
  await assertOwn(path, "file");
  try {
    const text = await readFile(path, "utf8");
    return text.split("\n").filter((line) => parse(line) !== undefined);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return [];
    throw error;
  }
}

async function readExamples(path: string): Promise<StoredExample[]> {
  return (await linesOf(path)).map((line) => ({ ...parse(line)!, side: sideOf(digestOf(line)) }));
}

/** A line's example; undefined for half a line. */
function parse(line: string): Example | undefined {
  try {
    const value = JSON.parse(line) as Partial<Example> | null;
    return value?.inputs !== undefined && value.label !== undefined ? (value as Example) : undefined;
  } catch {
    return undefined;
  }
}

function digestOf(line: string): string {
  return createHash("sha256").update(line).digest("hex");
}

/** Eight in ten are learnt; one in ten chooses the epoch, one in ten judges. */
function sideOf(digest: string): Side {
  const tenth = Number.parseInt(digest.slice(0, 8), 16) % 10;
  if (tenth === 0) return "judge";
  return tenth === 1 ? "choose" : "train";
}

/**
 * Checks examples against the model: every input of a fixed size beside the batch, and a class or numbers for its first output.
 *
 * @throws ServeError 400 with the first faults, or for a model that cannot be tuned in this way.
 */
export function checkExamples(examples: readonly Example[], { inputs, outputs, sharesRuns }: Description): void {
  const sizes = new Map(inputs.map(({ name, shape }) => [name, sizeOf(shape)]));
  const [output] = outputs;
  const width = output?.type === "float32" && output.shape?.length === 2 ? output.shape[1] : undefined;
  if (!sharesRuns || [...sizes.values()].includes(undefined) || typeof width !== "number") {
    throw new ServeError(
      400,
      "examples: expected a model with inputs of one size and an output [batch, classes or numbers]; tune this one with lowrank tune",
    );
  }
  const faults: string[] = [];
  for (const [at, { inputs: given, label }] of examples.entries()) {
    for (const name of Object.keys(given))
      if (!sizes.has(name)) faults.push(`example ${at}: the model has no input ${JSON.stringify(shortened(name))}`);
    for (const [name, size] of sizes) {
      const values = Object.hasOwn(given, name) ? given[name] : undefined;
      const isGood =
        values !== undefined && values.length === size && values.every((value) => Number.isFinite(Math.fround(value)));
      if (!isGood) faults.push(`example ${at}: input ${JSON.stringify(name)}: expected ${size} finite numbers`);
    }
    if (typeof label === "number") {
      if (!(Number.isInteger(label) && label >= 0 && label < width))
        faults.push(`example ${at}: label: expected a class from 0 to ${width - 1}, got ${label}`);
    } else if (label.length !== width || !label.every((value) => Number.isFinite(Math.fround(value)))) {
      faults.push(`example ${at}: label: expected ${width} finite numbers`);
    }
    if (faults.length > 5) break;
  }
  if (faults.length > 0) throw new ServeError(400, faults.join("; "));
}

function sizeOf(shape: Description["inputs"][number]["shape"]): number | undefined {
  const rest = shape?.slice(1);
  return rest?.every((dim) => typeof dim === "number") === true ? elementCount(rest as number[]) : undefined;
}
