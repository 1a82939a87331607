// The engine itself. Adapters of plain LoRA share one session, which holds the base once and gives each row its own adapter;
// one that changes more of the model (DoRA, biases, saved modules, other layers) gets a session of its own kind, up to a limit.
// A batch is taken apart by session, and by adapter where rows cannot differ; what fails is run again request by request, so
// that one request's failure stays its own.
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import { loadModel } from "../runs/model-file.ts";
import type { SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import { type AdapterSession, createSession } from "../train/infer.ts";
import type { AdapterChoice } from "../train/loaded-adapters.ts";
import { describeModel } from "./describe.ts";
import type {
  AdapterSource,
  Engine,
  EngineOptions,
  Failure,
  ItemResult,
  Job,
  JobItem,
  JobResult,
  RowChoice,
} from "./engine.ts";
import { readSource } from "./read-source.ts";
import { gatherRows, rowsAt, scatterRows } from "./rows.ts";
import { ServeError } from "./serve-error.ts";
import { Sums } from "./sums.ts";

/** A session and the adapters in it. */
interface Group {
  readonly session: AdapterSession;
  readonly keys: Set<string>;
}

interface Loaded {
  readonly group: Group;
  readonly bytes: number;
  /** Whether rows may have it beside rows with others. */
  readonly inRows: boolean;
}

/** Sums of adapters that are kept as they were last used, and the memory that they may take. */
const sumLimits = { maxCount: 64, maxBytes: 2 ** 28 };

/**
 * Opens the model.
 *
 * @throws LowrankError "model" and "runtime" as loading it does, "config" for targets that match nothing.
 * @example const engine = await openEngine({ model: "model.onnx", maxRank: 256, maxSessions: 4 });
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const model = await loadModel(options.model);
  const session: SessionOptions = {
    ...(options.device !== undefined && { device: options.device }),
    ...(options.threads !== undefined && { threads: options.threads }),
  };
  const config = firstConfig(model, options);
  const opened = await createSession(config === null ? model : attachLora(model, config), session);
  return new LocalEngine(model, options, session, opened, config === null ? [] : (config.targetModules as string[]));
}

/** Every layer that the samples or the targets name, with the samples' own scale; null when there is none. */
function firstConfig(
  model: Model,
  { samples = [], targets, maxRank }: EngineOptions,
): Pick<AdapterConfig, "r" | "loraAlpha" | "useRslora" | "targetModules"> | null {
  const adapters = samples.flatMap((source) => readQuietly(source, maxRank)).filter(({ config }) => !config.useDora);
  const { r = 8, loraAlpha = 8, useRslora = false } = adapters[0]?.config ?? {};
  const scale = { r, loraAlpha, useRslora };
  const wanted =
    targets !== undefined
      ? [targets]
      : adapters.map(({ config }) => config.targetModules).concat(adapters.length === 0 ? ["all-linear"] : []);
  const modules = new Set<string>();
  for (const targetModules of wanted) {
    try {
      for (const { site } of attachLora(model, { ...scale, targetModules }).sites) modules.add(site.modulePath);
    } catch (error) {
      // An adapter that does not fit is refused when it is asked for; a model without layers is served as it is.
      if (!(error instanceof LowrankError) || targets !== undefined) throw error;
    }
  }
  return modules.size === 0 ? null : { ...scale, targetModules: [...modules] };
}

function readQuietly(source: AdapterSource, maxRank: number): Adapter[] {
  try {
    return [readSource(source, "adapter", maxRank)];
  } catch (error) {
    if (error instanceof LowrankError) return [];
    throw error;
  }
}

class LocalEngine implements Engine {
  readonly description: Engine["description"];
  readonly #model: Model;
  readonly #options: EngineOptions;
  readonly #session: SessionOptions;
  /** The first one is for plain LoRA and the base, and stays. */
  readonly #groups: Group[];
  readonly #loaded = new Map<string, Loaded>();
  readonly #sums = new Sums(sumLimits, (key) => this.#loaded.get(key)?.bytes ?? 0);

  constructor(
    model: Model,
    options: EngineOptions,
    session: SessionOptions,
    first: AdapterSession,
    modules: readonly string[],
  ) {
    this.#model = model;
    this.#options = options;
    this.#session = session;
    this.#groups = [{ session: first, keys: new Set() }];
    this.description = describeModel(model, modules);
  }

  async load(key: string, label: string, source: AdapterSource): Promise<{ bytes: number }> {
    if (this.#loaded.has(key)) throw new Error(`internal: ${key} is loaded already`);
    const adapter = readSource(source, label, this.#options.maxRank);
    const group = this.#fitting(key, adapter) ?? (await this.#ownGroup(key, label, adapter));
    group.keys.add(key);
    const bytes = memoryOf(adapter, source);
    this.#loaded.set(key, { group, bytes, inRows: group.session.rowFaults(key).length === 0 });
    return { bytes };
  }

  /** The first session that takes the adapter; it is loaded there then. */
  #fitting(key: string, adapter: Adapter): Group | undefined {
    return this.#groups.find(({ session }) => {
      try {
        session.load(key, adapter);
        return true;
      } catch (error) {
        if (error instanceof LowrankError) return false;
        throw error;
      }
    });
  }

  /** A session of the adapter's own kind. Throws LowrankError "adapter" when it fits nowhere, or there are too many. */
  async #ownGroup(key: string, label: string, adapter: Adapter): Promise<Group> {
    const attached = relabelled(label, () => attachLora(this.#model, adapter.config));
    if (this.#groups.length >= this.#options.maxSessions) {
      throw new LowrankError(
        "config",
        `${label}: it changes other parts of the model than the adapters loaded so far, and there are ${this.#groups.length} sessions already; raise --max-sessions, or name its layers with --target`,
      );
    }
    const session = await createSession(attached, this.#session);
    try {
      relabelled(label, () => session.load(key, adapter));
    } catch (error) {
      await session.dispose();
      throw error;
    }
    const group = { session, keys: new Set<string>() };
    this.#groups.push(group);
    return group;
  }

  async unload(key: string): Promise<void> {
    const loaded = this.#loaded.get(key);
    if (loaded === undefined) throw new Error(`internal: ${key} is not loaded`);
    const { group } = loaded;
    this.#loaded.delete(key);
    group.keys.delete(key);
    group.session.unload(key);
    this.#sums.forget(key);
    if (group.keys.size > 0 || group === this.#groups[0]) return;
    this.#groups.splice(this.#groups.indexOf(group), 1);
    await group.session.dispose();
  }

  async run(job: Job): Promise<JobResult> {
    const begun = performance.now();
    const whole = await this.#attempt(job);
    const results = whole ?? (await this.#oneByOne(job));
    return { results, seconds: (performance.now() - begun) / 1000 };
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#groups.splice(0).map(({ session }) => session.dispose()));
  }

  /** All items together; null when they are better run alone. */
  async #attempt(job: Job): Promise<ItemResult[] | null> {
    try {
      const outputs = await this.#runRows(job);
      const count = job.items.reduce((sum, { rows }) => sum + rows, 0);
      if (job.items.length === 1) return [{ outputs }];
      if (Object.values(outputs).some(({ dims }) => dims[0] !== count)) return null;
      let from = 0;
      return job.items.map(({ rows }) => {
        const own = Object.entries(outputs).map(([name, value]) => [name, rowsAt(value, from, rows)] as const);
        from += rows;
        return { outputs: Object.fromEntries(own) };
      });
    } catch (error) {
      return job.items.length === 1 ? [{ failure: failureOf(error) }] : null;
    }
  }

  async #oneByOne({ inputs, items }: Job): Promise<ItemResult[]> {
    const results: ItemResult[] = [];
    let from = 0;
    for (const item of items) {
      const own = Object.fromEntries(
        Object.entries(inputs).map(([name, value]) => [name, rowsAt(value, from, item.rows)]),
      );
      from += item.rows;
      results.push(...((await this.#attempt({ inputs: own, items: [item] })) ?? []));
    }
    return results;
  }

  /** The outputs of all rows, in their order. */
  async #runRows({ inputs, items }: Job): Promise<Record<string, Tensor>> {
    const parts = this.#partition(items);
    if (parts.length === 1) return Object.fromEntries(await this.#runPart(parts[0]!, inputs));
    const count = items.reduce((sum, { rows }) => sum + rows, 0);
    const outputs: Record<string, Tensor> = {};
    for (const part of parts) {
      const own = Object.fromEntries(
        Object.entries(inputs).map(([name, value]) => [name, gatherRows(value, part.rows)] as const),
      );
      for (const [name, value] of await this.#runPart(part, own)) {
        outputs[name] = scatterRows(outputs[name], value, part.rows, count);
      }
    }
    return outputs;
  }

  async #runPart(
    { group, choices, inRows }: Part,
    inputs: Readonly<Record<string, Tensor>>,
  ): Promise<Map<string, Tensor>> {
    const [first = null] = choices;
    const isOne = !inRows || choices.every((choice) => choice === first);
    return group.session.run(inputs, isOne ? { adapter: first } : { rows: choices });
  }

  /** Rows that can be run together, in their order. */
  #partition(items: readonly JobItem[]): Part[] {
    this.#sums.assertFit(items.flatMap(({ choices }) => choices));
    const parts = new Map<string, Part>();
    let row = 0;
    for (const { rows, choices } of items) {
      for (let at = 0; at < rows; at++, row++) {
        const choice = choices[choices.length === 1 ? 0 : at]!;
        const { group, inRows } = this.#placeOf(choice);
        const own = choice === null || typeof choice === "string" ? choice : this.#sums.listOf(choice);
        const id = `${this.#groups.indexOf(group)} ${inRows ? "" : JSON.stringify(choice)}`;
        const part = parts.get(id);
        if (part === undefined) parts.set(id, { group, inRows, rows: [row], choices: [own] });
        else {
          part.rows.push(row);
          part.choices.push(own);
        }
      }
    }
    return [...parts.values()];
  }

  #placeOf(choice: RowChoice): Omit<Loaded, "bytes"> {
    if (choice === null) return { group: this.#groups[0]!, inRows: true };
    const keys = typeof choice === "string" ? [choice] : choice.map(({ key }) => key);
    const [first, ...others] = keys.map((key) => {
      const loaded = this.#loaded.get(key);
      // The worker that held it was replaced while the request was waiting.
      if (loaded === undefined) throw new ServeError(503, "the adapter is being loaded again; try again");
      return loaded;
    });
    if (first === undefined) return { group: this.#groups[0]!, inRows: true };
    if (others.some(({ group }) => group !== first.group)) {
      throw new LowrankError(
        "adapter",
        "adapter: expected a sum of adapters of one kind, got several; they change different parts of the model",
      );
    }
    return { group: first.group, inRows: first.inRows && others.every(({ inRows }) => inRows) };
  }
}

interface Part {
  readonly group: Group;
  readonly inRows: boolean;
  readonly rows: number[];
  readonly choices: AdapterChoice[];
}

/** The adapter's own name in front of what does not fit. */
function relabelled<T>(label: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    throw new LowrankError("adapter", `${label}: ${error.message}`, { faults: error.faults, cause: error });
  }
}

/** Its tensors, views of the file that stays with them, and B once more where its scale is not the graph's. */
function memoryOf({ tensors }: Adapter, { files }: AdapterSource): number {
  const stored = Array.from(files.values(), ({ byteLength }) => byteLength);
  const held = Array.from(tensors.values(), ({ data }) => data.byteLength);
  const sum = (sizes: readonly number[]): number => sizes.reduce((total, size) => total + size, 0);
  return Math.max(sum(stored), sum(held));
}

function failureOf(error: unknown): Failure {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof ServeError) return { status: error.status, message };
  // What the runtime says of a run is about the values that it was given, such as an index past an embedding's end.
  return { status: error instanceof LowrankError ? 400 : 500, message };
}
