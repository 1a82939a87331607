// Training behind a frozen prefix: what lies below the lowest parameter runs once for each example, its outputs are kept, and
// training goes on from there (feature caching; Donahue et al. 2014 trained on kept features of a frozen network). The model is
// cut in two (prefix-cut.ts); the trainer is given the part behind the cut, and data whose inputs are what crosses it. Nothing
// else of the trainer knows of it.
import { LowrankError } from "../errors.ts";
import { withLateWeights } from "../grad/late-weights.ts";
import { AdaptedModel } from "../lora/adapted.ts";
import { withoutCache } from "../onnx/cache.ts";
import type { Model } from "../onnx/model.ts";
import { defaultDevice } from "../runtime/device.ts";
import { loadOrt } from "../runtime/ort.ts";
import { openSession, type Session, type SessionOptions } from "../runtime/session.ts";
import { elementBytes, elementCount, fromBytes, type Tensor, type TensorType, tensor, toBytes } from "../tensor.ts";
import { type DataSource, isDataSource, type PositionedBatch, startPosition } from "./data-source.ts";
import { inputDefaults } from "./default-inputs.ts";
import { branchNodes } from "./dropout.ts";
import type { EvaluationData } from "./evaluation.ts";
import type { Batches, TrainingData } from "./feed.ts";
import { Places } from "./places.ts";
import { cutPrefix, type KeptValue, type PrefixCut, rowBytes } from "./prefix-cut.ts";
import { inMemory, type RowStore, type StorePlace } from "./row-store.ts";
import type { Batch } from "./step.ts";

export interface PrefixCacheOptions {
  /** Where outputs of the prefix may be kept; the first place that they fit into is taken. Default: 1 GiB of memory. */
  readonly places?: readonly StorePlace[];
}

/** What became of the frozen prefix of a run. */
export type PrefixPlan =
  | {
      readonly on: true;
      /** Nodes that run once for each example, and nodes of the whole model. */
      readonly nodes: number;
      readonly allNodes: number;
      /** What is kept, with the sizes of one example. */
      readonly kept: readonly { readonly name: string; readonly dims: readonly number[] }[];
      readonly bytesPerExample: number;
      /** For all examples of training, as far as their number is known. */
      readonly bytes: number;
      readonly place: string;
    }
  | { readonly on: false; readonly reason: string };

/** A batch that has gone through the prefix: its inputs are those of the rest. */
export interface PrefixedBatch extends Batch {
  /** As it came, for metrics. */
  readonly given: Batch;
}

/** An opened prefix. */
export interface Prefix {
  readonly plan: PrefixPlan & { readonly on: true };
  /** The part of the model that is trained. */
  readonly adapted: AdaptedModel;
  /** Threads for it: one where a step is too short for several; undefined leaves it to the options. */
  readonly threads: number | undefined;
  /** The data behind the prefix, each example's outputs kept where the source tells examples apart. */
  through<D extends TrainingData | EvaluationData>(data: D): D;
  dispose(): Promise<void>;
}

/** What a run says that its prefix depends on. */
export interface PrefixRequest {
  readonly adapted: AdaptedModel;
  readonly data: TrainingData;
  /** Passes over the data, as far as it is known. */
  readonly passes: number;
  readonly session: SessionOptions;
  readonly places?: readonly StorePlace[];
}

/**
 * Opens the prefix of a run, when keeping its outputs pays: the data has several passes, and is a source that tells examples
 * apart; there is a part of the model to run once; what is kept of an example does not depend on the others in its batch, which
 * is tried out on the first; and all of it fits.
 *
 * @returns null with no plan when there is nothing to gain, and with a plan that says why when something is in the way.
 */
export async function openPrefix(request: PrefixRequest): Promise<{ prefix: Prefix | null; plan: PrefixPlan | null }> {
  const { adapted, data, passes, session, places = [inMemory(2 ** 30)] } = request;
  if (!(passes > 1) || !isDataSource(data)) return { prefix: null, plan: null };
  const first = await firstBatch(data);
  if (first === null) return { prefix: null, plan: null };
  const model = withoutCache(adapted.model);
  const inputs = model.graph.inputs.map(({ name }) => name);
  const complete = inputDefaults(model, inputs);
  const drops = (adapted.config?.loraDropout ?? 0) > 0;
  const changing = new Set(drops ? branchNodes(model.graph, adapted.sites).keys() : []);
  const cut = cutPrefix(model, adapted.parameters, complete(first.batch.inputs), changing);
  if (cut === null) return { prefix: null, plan: null };
  const off = (reason: string) => ({ prefix: null, plan: { on: false, reason } as const });
  const examples = Object.values(first.batch.inputs)[0]?.dims[0];
  if (examples === undefined || first.keys?.length !== examples)
    return off("the data does not tell its examples apart (padded, packed or changed texts)");
  const bytesPerExample = cut.kept.reduce((sum, value) => sum + rowBytes(value), 0);
  const bytes = bytesPerExample * (data.batchesPerEpoch ?? 1) * first.examples;
  const place = places.find(({ maxBytes }) => bytes <= maxBytes);
  if (place === undefined) {
    const most = Math.max(...places.map(({ maxBytes }) => maxBytes));
    return off(`${mebibytes(bytes)} would have to be kept, and ${mebibytes(most)} may be`);
  }
  const runner = new PrefixRunner(cut, adapted, complete, session);
  try {
    if (!(await isByExample(runner, first.batch))) {
      await runner.dispose();
      return off("what it gives for an example depends on the others in its batch");
    }
  } catch (error) {
    await runner.dispose();
    throw error;
  }
  const { nodes, allNodes, kept } = cut;
  const told = kept.map(({ name, dims }) => ({ name, dims }));
  const plan = { on: true, nodes, allNodes, kept: told, bytesPerExample, bytes, place: place.name } as const;
  const threads = await restThreads(session, cut.restWork * examples);
  const rest = { adapted: withModel(adapted, cut.rest), threads };
  return { prefix: new OpenedPrefix(rest, runner, plan, place), plan };
}

/**
 * Operations of a batch, forward, up to which one thread is as fast as several: a step of the study's network with an adapter
 * of rank 8 on its head takes 0.27 ms with one or two, but spinning threads take the processor from the prefix's.
 */
const oneThreadWork = 4e6;

async function restThreads({ device, threads }: SessionOptions, work: number): Promise<number | undefined> {
  const isCpu = (device ?? defaultDevice(await loadOrt())) === "cpu";
  return isCpu && work <= oneThreadWork ? 1 : threads;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toPrecision(3)} MiB`;
}

function withModel({ base, parameters, sites, config, initial }: AdaptedModel, model: Model): AdaptedModel {
  return new AdaptedModel({ base, model, parameters, sites, config, initial });
}

async function firstBatch(data: DataSource): Promise<PositionedBatch | null> {
  for await (const given of data.batches(startPosition)) return given;
  return null;
}

/** The prefix as a session, opened when it is first needed. */
class PrefixRunner {
  readonly kept: readonly KeptValue[];
  readonly #cut: PrefixCut;
  readonly #complete: (inputs: Batch["inputs"]) => Batch["inputs"];
  readonly #options: SessionOptions;
  readonly #passing: readonly string[];
  #session: Promise<Session> | undefined;

  constructor(
    cut: PrefixCut,
    { parameters }: AdaptedModel,
    complete: (inputs: Batch["inputs"]) => Batch["inputs"],
    options: SessionOptions,
  ) {
    this.kept = cut.kept;
    this.#cut = cut;
    this.#complete = complete;
    this.#options = options;
    const own = new Set([...cut.kept.map(({ name }) => name), ...parameters.map(({ key }) => key)]);
    this.#passing = cut.rest.graph.inputs.map(({ name }) => name).filter((name) => !own.has(name));
  }

  /** What the rest of the model reads of the data itself. */
  passing(inputs: () => Batch["inputs"]): Record<string, Tensor> {
    if (this.#passing.length === 0) return {};
    const all = this.#complete(inputs());
    return Object.fromEntries(this.#passing.flatMap((name) => (all[name] ? [[name, all[name]]] : [])));
  }

  /** What crosses the cut, by name. */
  async run(inputs: Batch["inputs"]): Promise<ReadonlyMap<string, Tensor>> {
    this.#session ??= openSession(withLateWeights(this.#cut.prefix), { ...this.#options, takesTurns: true });
    const session = await this.#session;
    const all = this.#complete(inputs);
    return session.run(new Map(session.inputs.map((name) => [name, all[name]!])));
  }

  async dispose(): Promise<void> {
    await (await this.#session)?.dispose();
  }
}

/** Rows of the same example may differ in their last bits, where a product of few rows is computed in another order. */
const rowTolerance = 1e-5;

/** Whether examples come out the same when the later half of their batch is replaced by the earlier one. */
async function isByExample(runner: PrefixRunner, { inputs }: Batch): Promise<boolean> {
  const examples = Object.values(inputs)[0]!.dims[0]!;
  const half = Math.ceil(examples / 2);
  const repeated = Object.entries(inputs).map(([name, value]) => [name, repeatRows(value, half)] as const);
  const before = await runner.run(inputs);
  const after = await runner.run(Object.fromEntries(repeated));
  return runner.kept.every(({ name }) => {
    const [whole, other] = [before.get(name)!, after.get(name)!];
    return whole.dims[0] === examples && sameRows(whole, other, half);
  });
}

/** Row i as row i mod `half`. */
function repeatRows(value: Tensor, half: number): Tensor {
  const data = value.data.slice() as Float32Array;
  const width = data.length / value.dims[0]!;
  data.copyWithin(half * width, 0, data.length - half * width);
  return tensor(value.type as "float32", value.dims, data);
}

function sameRows({ data, dims }: Tensor, repeated: Tensor, half: number): boolean {
  const width = data.length / dims[0]!;
  const [a, b] = [data as Float32Array, repeated.data as Float32Array];
  let largest = 0;
  for (let at = 0; at < half * width; at++) largest = Math.max(largest, Math.abs(Number(a[at])));
  for (let at = 0; at < b.length; at++) {
    const difference = Math.abs(Number(a[at % (half * width)]) - Number(b[at]));
    if (!(difference <= rowTolerance * largest)) return false;
  }
  return true;
}

class OpenedPrefix implements Prefix {
  readonly plan: Prefix["plan"];
  readonly adapted: AdaptedModel;
  readonly threads: number | undefined;
  readonly #runner: PrefixRunner;
  readonly #place: StorePlace;
  readonly #rows = new Map<DataSource, KeptRows>();
  #left: number;

  constructor(
    rest: Pick<Prefix, "adapted" | "threads">,
    runner: PrefixRunner,
    plan: Prefix["plan"],
    place: StorePlace,
  ) {
    this.adapted = rest.adapted;
    this.threads = rest.threads;
    this.plan = plan;
    this.#runner = runner;
    this.#place = place;
    this.#left = place.maxBytes;
  }

  through<D extends TrainingData | EvaluationData>(data: D): D {
    return this.#through(data) as D;
  }

  #through(data: TrainingData | EvaluationData): TrainingData {
    if (typeof data === "function") return (epoch) => this.#each((data as (epoch: number) => Batches)(epoch));
    if (!isDataSource(data)) return Array.isArray(data) ? () => this.#each(data) : this.#each(data);
    const rows = this.#rowsOf(data);
    const runner = this.#runner;
    return {
      ...(data.batchesPerEpoch !== undefined && { batchesPerEpoch: data.batchesPerEpoch }),
      async *batches(position) {
        const fill = rows.begin(runner);
        for await (const given of data.batches(position)) yield { ...given, batch: await fill(given) };
      },
    };
  }

  async *#each(batches: Batches): AsyncGenerator<PrefixedBatch> {
    for await (const given of batches) yield prefixed(this.#runner, given, await this.#runner.run(given.inputs));
  }

  #rowsOf(data: DataSource): KeptRows {
    const known = this.#rows.get(data);
    if (known !== undefined) return known;
    const rows = new KeptRows(this.#runner.kept, this.#place, (bytes) => {
      if (bytes > this.#left) return false;
      this.#left -= bytes;
      return true;
    });
    this.#rows.set(data, rows);
    return rows;
  }

  async dispose(): Promise<void> {
    for (const rows of this.#rows.values()) rows.close();
    await this.#runner.dispose();
  }
}

function prefixed(runner: PrefixRunner, given: Batch, crossing: Iterable<readonly [string, Tensor]>): PrefixedBatch {
  return {
    inputs: { ...runner.passing(() => given.inputs), ...Object.fromEntries(crossing) },
    labels: given.labels,
    given,
  };
}

/** What is kept of one source: a store for each value that crosses the cut. */
class KeptRows {
  readonly #values: readonly KeptValue[];
  readonly #stores: readonly RowStore[];
  readonly #places = new Places();
  readonly #rowBytes: number;
  readonly #take: (bytes: number) => boolean;

  /** @param take reserves room, or says that there is none. */
  constructor(values: readonly KeptValue[], place: StorePlace, take: (bytes: number) => boolean) {
    this.#values = values;
    this.#stores = values.map((value) => place.open(rowBytes(value)));
    this.#rowBytes = values.reduce((sum, value) => sum + rowBytes(value), 0);
    this.#take = take;
  }

  /** A function that takes batches through; two of its batches are valid at a time. */
  begin(runner: PrefixRunner): (given: PositionedBatch) => Promise<PrefixedBatch> {
    const sets = [buffersFor(this.#values), buffersFor(this.#values)] as const;
    let turn = 0;
    return async ({ batch, keys }) => {
      const places = keys === undefined ? null : this.#places.of(keys);
      if (places !== null) {
        const buffers = sets[turn++ % 2 === 0 ? 0 : 1];
        const crossing = this.#values.map(({ name }, index) => {
          const { bytes, value } = buffers[index]!(places.length);
          this.#stores[index]!.read(places, bytes);
          return [name, value] as const;
        });
        return prefixed(runner, batch, crossing);
      }
      const results = await runner.run(batch.inputs);
      if (keys !== undefined) this.#keep(keys, results);
      return prefixed(runner, batch, results);
    };
  }

  #keep(keys: ArrayLike<number>, results: ReadonlyMap<string, Tensor>): void {
    for (const { name, dims } of this.#values) checkRows(results.get(name)!, keys.length, dims);
    const columns = this.#values.map((value, index) => {
      const size = rowBytes(value);
      const bytes = toBytes(results.get(value.name)!.data);
      return (row: number, place: number) =>
        this.#stores[index]!.write(place, bytes.subarray(row * size, (row + 1) * size));
    });
    for (let at = 0; at < keys.length; at++) {
      const key = keys[at]!;
      if (this.#places.has(key)) continue;
      if (!this.#take(this.#rowBytes)) return;
      for (const keepRow of columns) keepRow(at, this.#places.count);
      this.#places.add(key);
    }
  }

  close(): void {
    for (const store of this.#stores) store.close();
  }
}

function checkRows({ dims }: Tensor, examples: number, row: readonly number[]): void {
  if (dims.join() === [examples, ...row].join()) return;
  throw new LowrankError(
    "data",
    `batch: expected examples of the same sizes in all batches, as the frozen prefix is kept for each, got [${dims}] after [${examples}, ${row}]; train with prefixCache: false`,
  );
}

/** Tensors of any number of examples over memory that is used again. */
function buffersFor(values: readonly KeptValue[]): ((examples: number) => { bytes: Uint8Array; value: Tensor })[] {
  return values.map(({ type, dims }) => {
    const width = elementCount(dims);
    const size = width * elementBytes(type);
    let room = new Uint8Array(0);
    let last: { bytes: Uint8Array; value: Tensor } | undefined;
    return (examples) => {
      if (last?.value.dims[0] === examples) return last;
      if (room.length < examples * size) room = new Uint8Array(examples * size);
      const bytes = room.subarray(0, examples * size);
      last = { bytes, value: tensor<TensorType>(type, [examples, ...dims], fromBytes(type, bytes) as Float32Array) };
      return last;
    };
  });
}
