// Running a model with any adapter, none, several, or another for each row, in one session. Adapters are inputs, so
// switching is free; one of another rank or scale than the graph was built for fits too, since the rank is a symbol and the
// scale moves into B.
import { LowrankError, throwFaults } from "../errors.ts";
import { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { factorFault } from "../lora/factors.ts";
import { currentWeights } from "../lora/full.ts";
import { disabledTensors } from "../lora/init.ts";
import { missingFaults } from "../lora/missing.ts";
import { besideColumns, plainAdapter, stackRows } from "../lora/residual.ts";
import { type RowModel, withRows } from "../lora/rows.ts";
import { scaleOf } from "../lora/scale.ts";
import type { Model } from "../onnx/model.ts";
import { withoutZipMaps } from "../onnx/zip-map.ts";
import { openSession, type Session, type SessionOptions, type Tensors } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type Inputs, inputDefaults } from "./default-inputs.ts";
import { type AdapterChoice, type Fitted, LoadedAdapters } from "./loaded-adapters.ts";
import { throwMisfits } from "./misfits.ts";
import { placedOn } from "./place.ts";
import { RowBank } from "./row-bank.ts";

/** What a run uses beside its inputs. */
export interface RunOptions {
  /** For all rows; default null, the base itself. */
  readonly adapter?: AdapterChoice;
  /** For each row of the batch (axis 0 of the model's first input), instead of `adapter`. */
  readonly rows?: readonly AdapterChoice[];
}

export interface AdapterSession {
  /**
   * Runs the model.
   *
   * @throws LowrankError "data" when inputs are missing or `rows` are not one for each row, "adapter" when an adapter is not
   * loaded, does not fit, or cannot differ from row to row.
   * @example
   * await session.run({ x }, { adapter: "poet" });
   * await session.run({ x }, { adapter: [{ adapter: "poet", weight: 0.7 }, { adapter: "critic", weight: 0.3 }] });
   * await session.run({ x }, { rows: ["poet", null, "critic"] });
   */
  run(inputs: Readonly<Record<string, Tensor>>, options?: RunOptions): Promise<Map<string, Tensor>>;
  /**
   * Keeps an adapter under a name, in the place of one that had it before. Its tensors are read where they are: do not change
   * them while it is loaded. Runs that have begun keep what they began with.
   *
   * @throws LowrankError "adapter" with everything that does not fit.
   */
  load(name: string, adapter: Adapter): void;
  /** Lets an adapter go; runs that have begun keep it until they end. Throws LowrankError "adapter" when there is none. */
  unload(name: string): void;
  /** The names of the loaded adapters. */
  readonly loaded: readonly string[];
  /**
   * Why rows cannot have this adapter beside rows with others: faults of its sites. Empty when they can.
   *
   * @throws LowrankError "adapter" when it is not loaded or does not fit.
   */
  rowFaults(choice: AdapterChoice): readonly string[];
  /** Frees the session when the runs that have begun are done. */
  dispose(): Promise<void>;
}

/**
 * A session for a plain model, or for an adapted one with its adapters chosen at each run. It holds the base once.
 *
 * @example
 * const session = await createSession(attachLora(model, adapter.config));
 * const { logits } = Object.fromEntries(await session.run({ x }, { adapter }));
 */
export async function createSession(
  model: Model | AdaptedModel,
  options: SessionOptions = {},
): Promise<AdapterSession> {
  if (!(model instanceof AdaptedModel)) {
    const readable = withoutZipMaps(model);
    return plainSession(readable, await openSession(readable, options));
  }
  const rows = withRows(model);
  // Without a site where rows may differ, the graph stays as it was.
  if (rows.sites.length === 0) return new SwitchingSession(model, rows, await openSession(model.model, options));
  return new SwitchingSession(model, rows, await openSession(rows.model, options));
}

function plainSession(model: Model, session: Session): AdapterSession {
  const complete = inputDefaults(model, session.inputs);
  const refuse = (): never => {
    throw new LowrankError("adapter", "this session runs a plain model: open it on attachLora(model, adapter.config)");
  };
  return {
    run: async (inputs, { adapter = null, rows = [] } = {}) => {
      if (adapter !== null || rows.some((row) => row !== null)) refuse();
      return session.run(new Map(Object.entries(complete(inputs))));
    },
    load: refuse,
    unload: refuse,
    loaded: [],
    rowFaults: (choice) => (choice === null ? [] : refuse()),
    dispose: () => session.dispose(),
  };
}

class SwitchingSession implements AdapterSession {
  readonly #session: Session;
  readonly #complete: (inputs: Inputs) => Inputs;
  readonly #adapters: LoadedAdapters;
  readonly #disabled: Tensors;
  readonly #rows: RowModel;
  readonly #bank: RowBank | null;
  /** What stands in the way of rows, by adapter. */
  readonly #checked = new WeakMap<Fitted, readonly string[]>();
  /** The model's first input, whose first axis is the batch. */
  readonly #batch: string | undefined;
  /** Runs that are under way. */
  readonly #running = new Set<Promise<unknown>>();
  /** The last run by rows: they take turns, since the bank is filled anew for each. */
  #turn: Promise<unknown> = Promise.resolve();
  #disposed: Promise<void> | undefined;

  constructor(adapted: AdaptedModel, rows: RowModel, session: Session) {
    this.#session = session;
    this.#complete = inputDefaults(
      adapted.model,
      adapted.model.graph.inputs.map(({ name }) => name),
    );
    // WebGPU's products of empty matrices end the process, so that there an adapter that is off is one of zeros.
    const off = (): Map<string, Tensor> => disabledTensors(adapted, { withoutEmpty: session.device === "webgpu" });
    this.#adapters = new LoadedAdapters(adapted, (adapter) => fitAdapter(adapted, adapter, off()));
    this.#disabled =
      adapted.config === null ? currentWeights(adapted) : new Map([...off(), ...(adapted.initial ?? [])]);
    this.#rows = rows;
    this.#bank = rows.sites.length === 0 ? null : new RowBank(rows);
    const own = new Set(adapted.parameters.map(({ key }) => key));
    this.#batch = adapted.model.graph.inputs.find(({ name }) => !own.has(name))?.name;
  }

  get loaded(): readonly string[] {
    return this.#adapters.names;
  }

  load(name: string, adapter: Adapter): void {
    this.#adapters.load(name, adapter);
  }

  unload(name: string): void {
    this.#adapters.unload(name);
  }

  rowFaults(choice: AdapterChoice): readonly string[] {
    const [fitted] = this.#adapters.resolve([choice]);
    return fitted ? this.#faultsInRows(fitted) : [];
  }

  async run(
    given: Readonly<Record<string, Tensor>>,
    { adapter = null, rows }: RunOptions = {},
  ): Promise<Map<string, Tensor>> {
    if (this.#disposed !== undefined) throw new LowrankError("runtime", "run: the session is disposed; open another");
    const inputs = this.#complete(given);
    if (rows === undefined) {
      const [fitted] = this.#adapters.resolve([adapter]);
      return this.#keep(this.#runOne(inputs, fitted?.tensors ?? this.#disabled));
    }
    if (adapter !== null) throw new LowrankError("data", "run: expected adapter or rows, got both");
    const fitted = this.#adapters.resolve(rows);
    this.#checkRows(inputs, rows, fitted);
    if (fitted.every((one) => one === null)) return this.#keep(this.#runOne(inputs, this.#disabled));
    return this.#keep(this.#runRows(inputs, fitted));
  }

  dispose(): Promise<void> {
    this.#disposed ??= Promise.all(this.#running).then(() => this.#session.dispose());
    return this.#disposed;
  }

  #runOne(inputs: Readonly<Record<string, Tensor>>, tensors: Tensors): Promise<Map<string, Tensor>> {
    return this.#session.run(new Map([...tensors, ...(this.#bank?.unused ?? []), ...Object.entries(inputs)]));
  }

  #runRows(inputs: Readonly<Record<string, Tensor>>, fitted: readonly (Fitted | null)[]): Promise<Map<string, Tensor>> {
    const run = this.#turn.then(() =>
      this.#session.run(new Map([...this.#disabled, ...this.#bank!.feeds(fitted), ...Object.entries(inputs)])),
    );
    this.#turn = run.catch(() => undefined);
    return run;
  }

  #keep<T>(run: Promise<T>): Promise<T> {
    const ended = run.then(
      () => undefined,
      () => undefined,
    );
    this.#running.add(ended);
    void ended.then(() => this.#running.delete(ended));
    return run;
  }

  /** Throws when rows and batch differ in number, or an adapter reaches a site where rows cannot differ. */
  #checkRows(
    inputs: Readonly<Record<string, Tensor>>,
    rows: readonly AdapterChoice[],
    fitted: readonly (Fitted | null)[],
  ): void {
    const count = this.#batch === undefined ? undefined : inputs[this.#batch]?.dims[0];
    if (count !== undefined && count !== rows.length)
      throw new LowrankError(
        "data",
        `rows: expected one for each of the ${count} rows of the batch, got ${rows.length}`,
      );
    const faults = new Set<string>();
    for (const one of new Set(fitted)) {
      if (one === null) continue;
      for (const fault of this.#faultsInRows(one)) faults.add(fault);
    }
    throwFaults("adapter", "rows", [...faults]);
  }

  /** What of an adapter cannot differ from row to row. */
  #faultsInRows(fitted: Fitted): readonly string[] {
    let faults = this.#checked.get(fitted);
    if (faults === undefined) {
      const able = new Set(this.#rows.sites.flatMap(({ adapted: { a, b } }) => [a, b]));
      const others = [...fitted.keys].filter((key) => !able.has(key));
      faults = others.map((key) => `${key}: ${this.#reason(key)}; run each adapter's rows as a batch of their own`);
      this.#checked.set(fitted, faults);
    }
    return faults;
  }

  #reason(key: string): string {
    const fault = [...this.#rows.faults].find(([path]) => key.includes(`.${path}.`))?.[1];
    return fault ?? "only A and B can differ from row to row";
  }
}

/** The adapter's tensors as the graph wants them: sites that it leaves out are off, another scale is multiplied into B. */
function fitAdapter(adapted: AdaptedModel, adapter: Adapter, off: ReadonlyMap<string, Tensor>): Tensors {
  const isOwn = adapter.initial !== undefined && adapter.initial === adapted.initial;
  const plain = isOwn ? adapter : plainAdapter(adapter, adapted.base);
  const fitted = fitPlain(adapted, plain, off);
  return isOwn ? fitted : withInitial(adapted, fitted);
}

/** On the residual of a base, an adapter of the base itself needs what was taken out as well: [A; A0] and [B, B0]. */
function withInitial({ initial, sites }: AdaptedModel, fitted: Tensors): Tensors {
  if (initial === null) return fitted;
  const whole = new Map(fitted);
  for (const { a, b } of sites) {
    if (!initial.has(a)) continue;
    const [A, B] = [fitted.get(a) as Tensor<"float32">, fitted.get(b) as Tensor<"float32">];
    whole.set(a, stackRows(A, initial.get(a) as Tensor<"float32">, 1));
    whole.set(b, besideColumns(B, initial.get(b) as Tensor<"float32">, 1));
  }
  return whole;
}

function fitPlain(adapted: AdaptedModel, given: Adapter, off: ReadonlyMap<string, Tensor>): Tensors {
  const fitted = new Map(off);
  const placed = placedOn(adapted, given);
  const { adapter, faults } = placed;
  for (const key of adapter.tensors.keys()) if (!fitted.has(key)) faults.push(`${key}: the model has no branch for it`);
  for (const adaptedSite of adapted.sites) {
    const { site, scale, a, b, magnitude, biasOfB } = adaptedSite;
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined && B === undefined) continue;
    const fault = factorFault(site, A, B);
    if (fault !== undefined || A?.type !== "float32" || B?.type !== "float32") {
      faults.push(`${site.modulePath}: ${fault}`);
      continue;
    }
    // Without its magnitude, the site would be another than the adapter was trained with.
    if (magnitude !== undefined && !adapter.tensors.has(magnitude))
      faults.push(
        `${site.modulePath}: expected a DoRA adapter, got one without a magnitude; attach the adapter's own config`,
      );
    const factor = scaleOf(adapter.config, site.modulePath) / scale;
    fitted.set(a, A);
    fitted.set(b, times(B, factor));
    const bias = biasOfB === undefined ? undefined : adapter.tensors.get(biasOfB);
    if (biasOfB !== undefined && bias?.type === "float32") fitted.set(biasOfB, times(bias, factor));
  }
  faults.push(...fitOthers(adapted, adapter, fitted));
  faults.push(
    ...missingFaults(
      placed,
      adapted.sites.map(({ site }) => site),
    ),
  );
  throwMisfits(faults);
  return fitted;
}

/** Takes what is trained beside A and B; what the adapter leaves out is as the base has it. Returns what does not fit. */
function fitOthers({ parameters, sites }: AdaptedModel, { tensors }: Adapter, fitted: Map<string, Tensor>): string[] {
  const scaled = new Set(sites.map(({ biasOfB }) => biasOfB));
  return parameters.flatMap(({ key, dims, start }) => {
    const value = tensors.get(key);
    if (start === undefined || value === undefined) return [];
    if (value.type !== "float32" || value.dims.join() !== dims.join())
      return [`${key}: expected float32 [${dims}], got ${value.type} [${value.dims}]`];
    if (!scaled.has(key)) fitted.set(key, value);
    return [];
  });
}

function times(value: Tensor<"float32">, factor: number): Tensor<"float32"> {
  if (factor === 1) return value;
  return tensor(
    "float32",
    value.dims,
    value.data.map((one) => one * factor),
  );
}
