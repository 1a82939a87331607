// Several engines as one. Every engine holds the base and all resident adapters; loads and unloads go to all of them, in one
// order. When one dies, all begin again, empty, so that one list tells what is resident: whoever keeps that list is told, and
// loads adapters again when they are asked for.
import type { AdapterSource, Description, Engine, EngineOptions, Job, JobResult, LoadedInfo } from "./engine.ts";
import { ServeError } from "./serve-error.ts";
import { openWorkerEngine } from "./worker-engine.ts";

/** Opens an engine. `onEnd` is told when it has ended without being asked to. */
export type OpenOne = (options: EngineOptions, onEnd: (reason: string) => void) => Promise<Engine>;

export interface PoolOptions extends EngineOptions {
  readonly workers: number;
  /** Told when an engine has ended and all adapters are gone. */
  readonly onLost: (reason: string) => void;
  /** Default: in a worker thread. */
  readonly open?: OpenOne;
}

interface Slot {
  readonly engine: Engine;
  /** Jobs that it was given and has not ended. */
  jobs: number;
}

/** Between the attempts to begin again, in milliseconds: a model that kills its worker at once must not keep a core busy. */
const restartDelay = 1000;

export class Pool {
  readonly description: Description;
  readonly #options: PoolOptions;
  /** Empty while the engines begin again. */
  #slots: readonly Slot[] = [];
  /** Counts the deaths, so that engines which were opened before one are not used after it. */
  #deaths = 0;
  #restarting: boolean = false;
  #isClosed: boolean = false;

  private constructor(options: PoolOptions, description: Description) {
    this.#options = options;
    this.description = description;
  }

  /** Opens the engines. Throws as opening one does. */
  static async open(options: PoolOptions): Promise<Pool> {
    let pool: Pool | undefined;
    const engines = await openAll(options, (reason) => {
      if (pool !== undefined) pool.#replace(reason);
    });
    pool = new Pool(options, engines[0]!.description);
    pool.#slots = engines.map((engine) => ({ engine, jobs: 0 }));
    return pool;
  }

  /** Engines that run, or could. */
  get size(): number {
    return this.#slots.length;
  }

  /** Whether a job would be begun at once. */
  get isIdle(): boolean {
    return this.#slots.some(({ jobs }) => jobs === 0);
  }

  /** Whether an engine has no more than one job. */
  get hasRoom(): boolean {
    return this.#slots.some(({ jobs }) => jobs < 2);
  }

  /** Loads into all engines, or none. Throws ServeError 503 while they begin again. */
  async load(key: string, label: string, source: AdapterSource): Promise<LoadedInfo> {
    this.#leastBusy();
    const engines = this.#slots.map(({ engine }) => engine);
    const results = await Promise.allSettled(engines.map((engine) => engine.load(key, label, source)));
    const failed = results.find((result) => result.status === "rejected");
    if (failed === undefined) return (results[0] as PromiseFulfilledResult<LoadedInfo>).value;
    const loaded = engines.filter((_, at) => results[at]!.status === "fulfilled");
    await Promise.allSettled(loaded.map((engine) => engine.unload(key)));
    throw failed.reason;
  }

  async unload(key: string): Promise<void> {
    await Promise.allSettled(this.#slots.map(({ engine }) => engine.unload(key)));
  }

  /** Throws ServeError 503 while the engines begin again. */
  async run(job: Job): Promise<JobResult> {
    const slot = this.#leastBusy();
    slot.jobs++;
    try {
      return await slot.engine.run(job);
    } finally {
      slot.jobs--;
    }
  }

  async dispose(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#slots.map(({ engine }) => engine.dispose()));
    this.#slots = [];
  }

  #leastBusy(): Slot {
    const [first, ...others] = this.#slots;
    if (first === undefined) throw new ServeError(503, "the workers are starting; try again", { retryAfter: 1 });
    return others.reduce((best, slot) => (slot.jobs < best.jobs ? slot : best), first);
  }

  #replace(reason: string): void {
    if (this.#isClosed) return;
    this.#deaths++;
    void disposeAll(this.#slots.map(({ engine }) => engine));
    this.#slots = [];
    this.#options.onLost(reason);
    if (!this.#restarting) void this.#restart();
  }

  async #restart(): Promise<void> {
    this.#restarting = true;
    while (this.#slots.length === 0 && !this.#isClosed) {
      await new Promise((resolve) => setTimeout(resolve, restartDelay));
      const deaths = this.#deaths;
      const engines = await openAll(this.#options, (reason) => this.#replace(reason)).catch(() => []);
      if (this.#isClosed || deaths !== this.#deaths) await disposeAll(engines);
      else this.#slots = engines.map((engine) => ({ engine, jobs: 0 }));
    }
    this.#restarting = false;
  }
}

/** All engines, or none. */
async function openAll(
  { workers, open = openWorkerEngine, onLost: _, ...options }: PoolOptions,
  onEnd: (reason: string) => void,
): Promise<readonly Engine[]> {
  const results = await Promise.allSettled(Array.from({ length: workers }, () => open(options, onEnd)));
  const engines = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = results.find((result) => result.status === "rejected");
  if (failed === undefined) return engines;
  await disposeAll(engines);
  throw failed.reason;
}

async function disposeAll(engines: readonly Engine[]): Promise<void> {
  await Promise.allSettled(engines.map((engine) => engine.dispose()));
}
