// Adapters that learn from what their clients send: examples are collected, a training runs in the background, one at a time,
// and what comes of it is a new version that is served only if it does better on examples that were held out. Versions before
// it stay, and going back is one word in a file.
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { writeFileAtomic, writeFilesAtomic } from "../../runs/files.ts";
import { servingFile } from "../catalogue.ts";
import type { AdapterSource, Description } from "../engine.ts";
import { assertOwn } from "../inside.ts";
import type { Metrics } from "../metrics.ts";
import { ServeError } from "../serve-error.ts";
import type { AdapterStore } from "../store.ts";
import { type BoxLimits, type Counts, checkExamples, type Example, ExampleBox } from "./examples.ts";
import type { Score, TuneOutcome, TuneTask } from "./tune-task.ts";

export interface TrainerOptions extends BoxLimits {
  readonly model: string;
  readonly store: AdapterStore;
  readonly description: Description;
  readonly metrics: Metrics;
  readonly maxRank: number;
  readonly threads: number;
  readonly log: (fields: object, message: string) => void;
  /** Tunes; default: in a thread of its own. */
  readonly tune?: TuneIn;
}

export type TuneIn = (task: TuneTask, signal: AbortSignal) => Promise<TuneOutcome>;

/** What became of an adapter's last training. */
export interface TrainingStatus {
  readonly state: "idle" | "queued" | "running" | "done" | "failed";
  /** Whether the new version is served. */
  readonly outcome?: "better" | "worse";
  /** The version that was saved and is served. */
  readonly version?: string;
  /** On the examples that judge. */
  readonly before?: Score;
  readonly after?: Score;
  readonly steps?: number;
  readonly examples?: Counts;
  readonly seconds?: number;
  readonly error?: string;
}

/** Trainings that may wait. */
const maxWaiting = 16;

/** Examples that each side needs before a training says anything. */
const least: Counts = { train: 16, choose: 2, judge: 2 };

export class Trainer {
  readonly #options: TrainerOptions;
  readonly #boxes = new Map<string, ExampleBox>();
  readonly #statuses = new Map<string, TrainingStatus>();
  readonly #stopping = new AbortController();
  #waiting = 0;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: TrainerOptions) {
    this.#options = options;
  }

  /**
   * Keeps examples. Returns how many were new, and how many there are.
   *
   * @throws ServeError 400 for what does not fit the model, 404 for an unknown adapter, 429 beyond the quota.
   */
  async add(
    name: string,
    examples: readonly Example[],
  ): Promise<{ readonly added: number; readonly examples: Counts }> {
    const box = this.#boxOf(name);
    checkExamples(examples, this.#options.description);
    const added = await box.add(examples);
    return { added, examples: await box.counts() };
  }

  counts(name: string): Promise<Counts> {
    return this.#boxOf(name).counts();
  }

  async clear(name: string): Promise<void> {
    await this.#boxOf(name).clear();
  }

  /** The state of an adapter's training. Throws ServeError 404. */
  status(name: string): TrainingStatus {
    this.#options.store.versionsOf(name);
    return this.#statuses.get(name) ?? { state: "idle" };
  }

  /**
   * Begins a training when those before it have ended.
   *
   * @throws ServeError 409 when one is under way or there are too few examples, 429 when too many wait.
   */
  async start(name: string): Promise<TrainingStatus> {
    const counts = await this.counts(name);
    const { state } = this.status(name);
    if (state === "queued" || state === "running")
      throw new ServeError(409, `a training of ${JSON.stringify(name)} is ${state}`);
    const missing = (Object.keys(least) as (keyof Counts)[]).filter((side) => counts[side] < least[side]);
    if (missing.length > 0) {
      throw new ServeError(
        409,
        `expected at least ${least.train} examples to learn, and ${least.choose} and ${least.judge} held out, got ${counts.train}, ${counts.choose} and ${counts.judge}; send more`,
      );
    }
    if (this.#waiting >= maxWaiting)
      throw new ServeError(429, "too many trainings are waiting; try again later", { retryAfter: 60 });
    this.#waiting++;
    this.#statuses.set(name, { state: "queued", examples: counts });
    this.#turn = this.#turn.then(() => this.#run(name, counts));
    return this.status(name);
  }

  /** Serves the version before the one that is served. Throws ServeError 409 when there is none. */
  async rollBack(name: string): Promise<string> {
    const { versions, current } = this.#options.store.versionsOf(name);
    const before = versions[versions.indexOf(current) - 1];
    if (before === undefined) throw new ServeError(409, `${JSON.stringify(name)} has no version before ${current}`);
    await this.#serveVersion(name, before);
    return before;
  }

  /** Ends what runs; what was learnt until then is lost, and the examples stay. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#turn;
  }

  #boxOf(name: string): ExampleBox {
    const folder = this.#options.store.folderOf(name);
    let box = this.#boxes.get(name);
    if (box === undefined) {
      box = new ExampleBox(folder, this.#options);
      this.#boxes.set(name, box);
    }
    return box;
  }

  async #run(name: string, counts: Counts): Promise<void> {
    const { metrics, log } = this.#options;
    this.#waiting--;
    if (this.#stopping.signal.aborted) return;
    const begun = performance.now();
    const seconds = (): number => Math.round(performance.now() - begun) / 1000;
    this.#statuses.set(name, { state: "running", examples: counts });
    try {
      const outcome = await this.#tune(name);
      const { before, after, isBetter, steps } = outcome;
      const version = isBetter ? await this.#save(name, outcome.files) : undefined;
      const result = isBetter ? "better" : "worse";
      metrics.trained(result);
      this.#statuses.set(name, {
        state: "done",
        outcome: result,
        ...(version !== undefined && { version }),
        before,
        after,
        steps,
        examples: counts,
        seconds: seconds(),
      });
      log({ adapter: name, outcome: result, version, before, after, seconds: seconds() }, "training has ended");
    } catch (error) {
      metrics.trained("failed");
      const message = error instanceof Error ? error.message : String(error);
      this.#statuses.set(name, { state: "failed", error: message, examples: counts, seconds: seconds() });
      log({ adapter: name, error: message }, "training has failed");
    }
  }

  async #tune(name: string): Promise<TuneOutcome> {
    const { store, model, maxRank, threads, description, tune = tuneInThread } = this.#options;
    const source: AdapterSource = await store.read(name);
    const all = await this.#boxOf(name).read();
    // Classes and numbers cannot be learnt together: the latest say what is meant.
    const kind = typeof all.at(-1)?.label;
    const examples = all.filter(({ label }) => typeof label === kind);
    const task = { model, name, source, examples, inputs: description.inputs, maxRank, threads };
    return tune(task, this.#stopping.signal);
  }

  /** A version of its own for the new adapter, whole before anything refers to it, and then the one that is served. */
  async #save(name: string, files: ReadonlyMap<string, Uint8Array>): Promise<string> {
    const { store } = this.#options;
    const { versions } = store.versionsOf(name);
    const version = String(Math.max(1, ...versions.map(Number)) + 1);
    const folder = join(store.folderOf(name), version);
    await assertOwn(folder, "folder");
    await writeFilesAtomic(folder, files);
    await this.#serveVersion(name, version);
    return version;
  }

  async #serveVersion(name: string, version: string): Promise<void> {
    const { store } = this.#options;
    const file = join(store.folderOf(name), servingFile);
    await assertOwn(file, "file");
    await writeFileAtomic(file, `${JSON.stringify({ version })}\n`);
    await store.refreshOne(name);
  }
}

/** The file that runs in the thread; beside this one in dist/. */
const workerFile = new URL("./tune-worker.js", import.meta.url);

function tuneInThread(task: TuneTask, signal: AbortSignal): Promise<TuneOutcome> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(workerFile, { workerData: task });
    const stop = (): void => void worker.terminate();
    signal.addEventListener("abort", stop, { once: true });
    worker.on("message", ({ outcome, error }: { outcome?: TuneOutcome; error?: string }) => {
      if (outcome !== undefined) resolve(outcome);
      else reject(new Error(error));
    });
    worker.on("error", reject);
    worker.on("exit", () => {
      signal.removeEventListener("abort", stop);
      reject(new Error("the training was ended"));
    });
  });
}
