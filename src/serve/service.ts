// The server without HTTP: what is served under which name, requests from names to answers. Routes translate between this and
// the protocols.
import type { Tensor } from "../tensor.ts";
import { type Answered, Batcher } from "./batcher.ts";
import type { Wanted } from "./blend.ts";
import type { Description, EngineOptions, RowChoice } from "./engine.ts";
import type { InferRequest } from "./infer-request.ts";
import type { Metrics } from "./metrics.ts";
import { assertName, isName } from "./names.ts";
import { type OpenOne, Pool } from "./pool.ts";
import { sampleAdapters } from "./samples.ts";
import { ServeError } from "./serve-error.ts";
import { AdapterStore, type Lease, type StoreLimits } from "./store.ts";

export interface ServiceOptions extends StoreLimits, Omit<EngineOptions, "samples"> {
  /** What the base is called. */
  readonly name: string;
  /** The folder of the adapters; null for the base alone. */
  readonly adapters: string | null;
  readonly workers: number;
  readonly maxBatch: number;
  /** Milliseconds. */
  readonly maxDelay: number;
  readonly maxQueue: number;
  /** Milliseconds that a request may take. */
  readonly timeout: number;
  /** Milliseconds between looks at the files of resident adapters; 0 for never. */
  readonly reloadEvery: number;
}

/** What is told while the server runs. */
export interface ServiceEvents {
  readonly info: (fields: object, message: string) => void;
  readonly warn: (fields: object, message: string) => void;
}

export interface Answer {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly version: string;
  /** Of the adapter's files, where all rows had one and the same. */
  readonly digest: string | undefined;
}

/** Whether a client is still there. */
export interface Departure {
  readonly hasLeft: boolean;
  /** Calls `call` when it leaves. */
  onLeave(call: () => void): void;
}

/** The version of the base: its file does not change while it is served. */
export const baseVersion = "1";

export class Service {
  readonly name: string;
  readonly description: Description;
  readonly store: AdapterStore | null;
  readonly #pool: Pool;
  readonly #batcher: Batcher;
  readonly #options: ServiceOptions;
  readonly #metrics: Metrics;
  readonly #sweep: NodeJS.Timeout | undefined;
  #isStopping: boolean = false;
  /** Requests that wait for an adapter to be loaded. */
  #loading = 0;

  private constructor(
    options: ServiceOptions,
    parts: { pool: Pool; store: AdapterStore | null; batcher: Batcher; metrics: Metrics; events: ServiceEvents },
  ) {
    this.name = options.name;
    this.#options = options;
    this.#pool = parts.pool;
    this.store = parts.store;
    this.#batcher = parts.batcher;
    this.#metrics = parts.metrics;
    this.description = parts.pool.description;
    this.#sweep = this.#startSweeps();
    parts.metrics.observe({
      queue: () => this.#batcher.waitingRows,
      open: () => this.#batcher.open,
      workers: () => this.#pool.size,
      resident: () => this.store?.resident ?? { count: 0, bytes: 0 },
      listed: () => this.store?.names.length ?? 0,
    });
  }

  /** Opens the model and lists the adapters. Throws LowrankError as that does, "config" when a name cannot be. */
  static async open(
    options: ServiceOptions,
    { metrics, events, openEngine }: { metrics: Metrics; events: ServiceEvents; openEngine?: OpenOne },
  ): Promise<Service> {
    if (!isName(options.name)) assertName(options.name, "--name");
    const samples = options.adapters === null ? [] : await sampleAdapters(options.adapters, options.maxAdapterBytes);
    let store: AdapterStore | null = null;
    const { model, device, threads, targets, maxRank, maxSessions, workers } = options;
    const pool = await Pool.open({
      ...{ model, maxRank, maxSessions, workers, samples },
      ...(device !== undefined && { device }),
      ...(threads !== undefined && { threads }),
      ...(targets !== undefined && { targets }),
      onLost(reason) {
        store?.forget();
        metrics.workerEnded();
        events.warn({ reason }, "a worker has ended; it is replaced");
      },
      ...(openEngine !== undefined && { open: openEngine }),
    });
    try {
      store = options.adapters === null ? null : await openStore(options.adapters, pool, options, metrics, events);
      if (store?.names.includes(options.name)) {
        throw new ServeError(
          400,
          `an adapter is called ${JSON.stringify(options.name)}, as the base is; choose another with --name`,
        );
      }
    } catch (error) {
      await pool.dispose();
      throw error;
    }
    const { sharesRuns } = pool.description;
    const batcher = new Batcher(pool, {
      ...options,
      sharesRuns,
      onBatch: (rows, requests, seconds) => metrics.batch(rows, requests, seconds),
    });
    return new Service(options, { pool, store, batcher, metrics, events });
  }

  /** Whether requests can be answered. */
  get isReady(): boolean {
    return !this.#isStopping && this.#pool.size > 0;
  }

  /** Whether a request for the model can be answered, loading it if need be. Throws ServeError 404. */
  isModelReady(name: string, version: string | undefined): boolean {
    const { versions, current } = this.versionsOf(name);
    if (version !== undefined && !versions.includes(version)) throw noVersion(name, version, versions);
    return this.isReady && (name === this.name || !this.#storeFor(name).isRefused(name, version ?? current));
  }

  /** The versions of the base or an adapter. Throws ServeError 404. */
  versionsOf(name: string): { readonly versions: readonly string[]; readonly current: string } {
    if (name === this.name) return { versions: [baseVersion], current: baseVersion };
    return this.#storeFor(name).versionsOf(name);
  }

  /**
   * Answers a request to the model of that name.
   *
   * @throws ServeError 404 for unknown models, adapters and versions, 400 where an adapter is named twice, 429 and 503 when it
   * cannot be taken now.
   */
  async infer(name: string, version: string | undefined, request: InferRequest, departure: Departure): Promise<Answer> {
    const begun = performance.now();
    const wanted = this.#wantedOf(name, version, request.wanted);
    const leases: Lease[] = [];
    const release = (): void => {
      for (const lease of leases) lease.release();
    };
    const { inputs, rows, timeout = this.#options.timeout } = request;
    const deadline = begun + Math.min(timeout, this.#options.timeout);
    let choices: readonly RowChoice[];
    try {
      choices = await this.#hold(wanted, name === this.name ? undefined : version, leases, deadline);
      if (departure.hasLeft) throw new ServeError(499, "the client has left");
    } catch (error) {
      release();
      throw error;
    }
    const submitted = this.#batcher.submit({
      inputs,
      rows,
      choices,
      // Loading an adapter is a part of it.
      timeout: Math.max(0, deadline - performance.now()),
      release,
    });
    departure.onLeave(() => submitted.cancel());
    const answered: Answered = await submitted.answer;
    this.#metrics.answered(answered.waited, answered.ran);
    const [first, ...others] = leases;
    const isOne = first !== undefined && others.length === 0 && wanted.every((one) => one.length === 1);
    return {
      outputs: answered.outputs,
      version: name === this.name ? baseVersion : (first?.version ?? baseVersion),
      digest: isOne ? first.digest : undefined,
    };
  }

  /** From now on the server is not ready: load balancers send their requests elsewhere. */
  announceStop(): void {
    this.#isStopping = true;
    clearInterval(this.#sweep);
  }

  get isStopping(): boolean {
    return this.#isStopping;
  }

  /** Requests that are not answered yet. */
  get open(): number {
    return this.#batcher.open;
  }

  /** Refuses new requests, answers those that were accepted within `timeout` milliseconds, and lets everything go. */
  async stop(timeout: number): Promise<void> {
    this.announceStop();
    await this.#batcher.drain(timeout);
    await this.#pool.dispose();
  }

  #wantedOf(name: string, version: string | undefined, wanted: readonly Wanted[] | undefined): readonly Wanted[] {
    if (name === this.name) {
      if (version !== undefined && version !== baseVersion) throw noVersion(name, version, [baseVersion]);
      return (wanted ?? [[]]).map((parts) => parts.filter((part) => !(part.name === name && parts.length === 1)));
    }
    this.#storeFor(name);
    if (wanted !== undefined) {
      throw new ServeError(
        400,
        `adapter: the path names one already; send the request to ${JSON.stringify(this.name)}`,
      );
    }
    return [[{ name, weight: 1 }]];
  }

  /** The adapters' keys for each row, each adapter held once. */
  async #hold(
    wanted: readonly Wanted[],
    version: string | undefined,
    leases: Lease[],
    deadline: number,
  ): Promise<RowChoice[]> {
    const keys = new Map<string, string>();
    for (const { name } of new Set(wanted.flat())) {
      if (keys.has(name)) continue;
      const held = this.#storeFor(name).acquire(name, version);
      const lease = held instanceof Promise ? await this.#whenLoaded(held, deadline) : held;
      leases.push(lease);
      keys.set(name, lease.key);
    }
    return wanted.map((parts) => {
      const [first, ...others] = parts;
      if (first === undefined) return null;
      if (others.length === 0 && first.weight === 1) return keys.get(first.name)!;
      return parts.map((part) => ({ key: keys.get(part.name)!, weight: part.weight }));
    });
  }

  /** Those that wait for an adapter are no more than those that wait for a batch may be, and wait no longer. */
  async #whenLoaded(held: Promise<Lease>, deadline: number): Promise<Lease> {
    const letGo = (): void =>
      void held.then(
        (lease) => lease.release(),
        () => undefined,
      );
    if (this.#loading >= this.#options.maxQueue) {
      letGo();
      throw new ServeError(429, "too many requests wait for their adapters to be loaded; try again later", {
        retryAfter: 1,
      });
    }
    this.#loading++;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const tell = (): void => {
        letGo();
        reject(new ServeError(504, "the request waited for its adapter to be loaded past its deadline"));
      };
      timer = setTimeout(tell, Math.max(0, deadline - performance.now()));
    });
    try {
      return await Promise.race([held, late]);
    } finally {
      clearTimeout(timer);
      this.#loading--;
    }
  }

  #storeFor(name: string): AdapterStore {
    if (this.store !== null) return this.store;
    throw new ServeError(404, `there is no model or adapter ${JSON.stringify(name)}`);
  }

  /** Looks at files again and again, one look at a time. */
  #startSweeps(): NodeJS.Timeout | undefined {
    const { store } = this;
    if (store === null || this.#options.reloadEvery <= 0) return undefined;
    let isLooking = false;
    return setInterval(() => {
      if (isLooking) return;
      isLooking = true;
      void store.refresh().finally(() => {
        isLooking = false;
      });
    }, this.#options.reloadEvery).unref();
  }
}

function openStore(
  folder: string,
  loader: Pool,
  limits: StoreLimits,
  metrics: Metrics,
  events: ServiceEvents,
): Promise<AdapterStore> {
  return AdapterStore.open(folder, {
    loader,
    limits,
    events: {
      onLoad(adapter, version, seconds) {
        metrics.loaded(seconds);
        events.info({ adapter, version, seconds }, "adapter loaded");
      },
      onFail(adapter, version, reason) {
        metrics.loadFailed();
        events.warn({ adapter, version, reason }, "adapter refused");
      },
      onEvict(adapter, version) {
        metrics.evicted();
        events.info({ adapter, version }, "adapter let go");
      },
    },
  });
}

function noVersion(name: string, version: string, versions: readonly string[]): ServeError {
  return new ServeError(
    404,
    `${JSON.stringify(name)} has no version ${JSON.stringify(version)}; it has ${versions.join(", ")}`,
  );
}
