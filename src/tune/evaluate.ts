// One model with several adapters, measured side by side on the same batches. The data is read once: each batch is run with
// the base and with every adapter before the next one is asked for. Adapters of plain LoRA share one session, and the base
// with them; one that changes more of the model than that (DoRA, biases, saved modules) has its own.
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { type AdapterSession, createSession } from "../train/infer.ts";
import { type Loss, weightOf } from "../train/losses.ts";
import type { Batch } from "../train/step.ts";
import { withLoss } from "../train/with-loss.ts";
import { createTally, kindOf, type Tallied, type Tally, type TaskKind } from "./tally.ts";

/** The base's name among results. */
export const baseName = "base";

export interface NamedAdapter {
  readonly name: string;
  readonly adapter: Adapter;
}

/** What one adapter, or the base, came to. */
export interface Evaluated extends Tallied {
  readonly name: string;
  /** The mean over all labels that count. */
  readonly loss: number;
  /** e to the loss, for language models: among how many tokens it is as unsure as if they were equally likely. */
  readonly perplexity?: number;
  /** For classes: the first examples that are read wrongly. */
  readonly wrong?: readonly MisreadExample[];
}

/** An example whose class is not the one that it is read as. */
export interface MisreadExample {
  /** Counted from 0 in the order of the data. */
  readonly index: number;
  readonly label: number;
  readonly read: number;
}

/** An example that an adapter reads as another class than the base does. */
export interface ChangedExample {
  /** Counted from 0 in the order of the data. */
  readonly index: number;
  readonly label: number;
  readonly base: number;
  readonly adapter: number;
}

/** What an adapter changes, example by example. */
export interface Changes {
  readonly name: string;
  /** Wrong with the base and right with the adapter. */
  readonly mended: number;
  /** The other way round. */
  readonly broken: number;
  /** All that changed, those between two wrong classes as well. */
  readonly changed: number;
  /** The first of them. */
  readonly examples: readonly ChangedExample[];
}

export interface AdapterEvaluation {
  readonly kind: TaskKind;
  readonly loss: string;
  readonly examples: number;
  /** The base first, then the adapters in their order. */
  readonly results: readonly Evaluated[];
  /** For classes: one for each adapter. */
  readonly changes: readonly Changes[];
}

/** A batch that may say which rows of the data its examples are. */
export type NumberedBatch = Batch & { readonly rows?: readonly number[] };

export interface EvaluateOptions extends SessionOptions {
  readonly loss: Loss;
  /** Examples that are listed for each adapter; default 20. */
  readonly listed?: number;
  /** Told after each batch. */
  readonly onBatch?: (examples: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Loss and metrics of the base and of each adapter.
 *
 * @throws LowrankError "adapter" when one does not fit the model, "data" for labels that do not fit, or no labels that count;
 * "aborted" when `signal` says so.
 * @example
 * const { results } = await evaluateAdapters(model, [{ name: "tuned", adapter }], batches, { loss: crossEntropy() });
 */
export async function evaluateAdapters(
  base: Model,
  adapters: readonly NamedAdapter[],
  batches: Iterable<NumberedBatch> | AsyncIterable<NumberedBatch>,
  options: EvaluateOptions,
): Promise<AdapterEvaluation> {
  const { loss, listed = 20, onBatch, signal, ...session } = options;
  const measured = withLoss(base, loss);
  const kind = kindOf(loss);
  const runners = await openRunners(measured.model, adapters, session);
  const meters = runners.map(({ name }) => new Meter(name, kind, loss, listed));
  const comparisons = adapters.map(({ name }) => new Comparison(name, listed));
  let examples = 0;
  try {
    for await (const batch of batches) {
      signal?.throwIfAborted();
      measured.checkLabels(batch.labels);
      const inputs = { ...batch.inputs, [measured.labels]: batch.labels };
      const before = examples;
      const rowOf = (at: number): number => batch.rows?.[at] ?? before + at;
      let ofBase: Int32Array | null = null;
      for (const [at, runner] of runners.entries()) {
        const outputs = await runner.session.run(inputs, { adapter: runner.adapter });
        const mean = Number(outputs.get(measured.loss)!.data[0]);
        const classes = meters[at]!.add(mean, weightOf(loss, batch.labels), outputs.get(measured.scores)!, batch);
        if (classes !== null) meters[at]!.note(rowOf, batch, classes);
        if (at === 0) ofBase = classes;
        else if (ofBase !== null && classes !== null) comparisons[at - 1]!.add(rowOf, batch, ofBase, classes);
      }
      examples += batch.labels.dims[0] ?? 1;
      onBatch?.(examples);
    }
  } finally {
    for (const one of new Set(runners.map((runner) => runner.session))) await one.dispose();
  }
  if (examples === 0) throw new LowrankError("data", "evaluation: expected an example or more, got none");
  return {
    kind,
    loss: loss.name,
    examples,
    results: meters.map((meter) => meter.end()),
    changes: kind === "classes" ? comparisons.map((comparison) => comparison.end()) : [],
  };
}

interface Runner {
  readonly name: string;
  readonly session: AdapterSession;
  readonly adapter: Adapter | null;
}

/** The base first. Nothing stays open when one of them fails. */
async function openRunners(
  model: Model,
  adapters: readonly NamedAdapter[],
  options: SessionOptions,
): Promise<readonly Runner[]> {
  const plain = adapters.filter(({ adapter }) => isPlain(adapter));
  const opened: AdapterSession[] = [];
  const open = async (...parts: Parameters<typeof createSession>): Promise<AdapterSession> => {
    const session = await createSession(...parts);
    opened.push(session);
    return session;
  };
  try {
    const sites = new Set(
      plain.flatMap(({ adapter }) => attachLora(model, adapter.config).sites.map(({ site }) => site.modulePath)),
    );
    const shared = await open(sites.size === 0 ? model : attachLora(model, { targetModules: [...sites] }), options);
    const runners: Runner[] = [{ name: baseName, session: shared, adapter: null }];
    for (const { name, adapter } of adapters) {
      const session = isPlain(adapter) ? shared : await open(attachLora(model, adapter.config), options);
      runners.push({ name, session, adapter });
    }
    return runners;
  } catch (error) {
    for (const session of opened) await session.dispose();
    throw error;
  }
}

/** Whether an adapter is A and B and nothing else, so that the base's graph with branches runs it. */
function isPlain({ tensors }: Adapter): boolean {
  return [...tensors.keys()].every((key) => /\.lora_(A|B|embedding_A|embedding_B)(\.weight)?$/.test(key));
}

/** The loss and the tally of one adapter. */
class Meter {
  readonly #name: string;
  readonly #kind: TaskKind;
  readonly #tally: Tally;
  readonly #ignored: number | undefined;
  readonly #listed: number;
  readonly #wrong: MisreadExample[] = [];
  #sum = 0;
  #weight = 0;

  constructor(name: string, kind: TaskKind, loss: Loss, listed: number) {
    this.#name = name;
    this.#ignored = loss.ignoreIndex;
    this.#listed = listed;
    this.#kind = kind;
    this.#tally = createTally(kind, loss.ignoreIndex);
  }

  add(mean: number, weight: number, scores: Parameters<Tally["add"]>[0], { labels }: Batch): Int32Array | null {
    // A batch whose labels are all ignored has no mean.
    if (weight > 0) this.#sum += mean * weight;
    this.#weight += weight;
    return this.#tally.add(scores, labels);
  }

  /** Keeps the first examples that are read wrongly. */
  note(rowOf: (at: number) => number, { labels }: Batch, classes: Int32Array): void {
    for (let at = 0; at < classes.length && this.#wrong.length < this.#listed; at++) {
      const label = Number(labels.data[at]);
      if (label === classes[at] || label === this.#ignored) continue;
      this.#wrong.push({ index: rowOf(at), label, read: classes[at]! });
    }
  }

  end(): Evaluated {
    if (this.#weight === 0) throw new LowrankError("data", "evaluation: expected labels that count, got none");
    const loss = this.#sum / this.#weight;
    const perplexity = this.#kind === "language" ? { perplexity: Math.exp(loss) } : {};
    const wrong = this.#kind === "classes" ? { wrong: this.#wrong } : {};
    return { name: this.#name, loss, ...perplexity, ...this.#tally.end(), ...wrong };
  }
}

/** Which examples an adapter reads otherwise than the base. */
class Comparison {
  readonly #name: string;
  readonly #listed: number;
  readonly #examples: ChangedExample[] = [];
  #mended = 0;
  #broken = 0;
  #changed = 0;

  constructor(name: string, listed: number) {
    this.#name = name;
    this.#listed = listed;
  }

  add(rowOf: (at: number) => number, { labels }: Batch, base: Int32Array, adapter: Int32Array): void {
    for (let at = 0; at < base.length; at++) {
      const [before, after] = [base[at]!, adapter[at]!];
      if (before === after) continue;
      const label = Number(labels.data[at]);
      this.#changed++;
      if (after === label) this.#mended++;
      if (before === label) this.#broken++;
      if (this.#examples.length < this.#listed) {
        this.#examples.push({ index: rowOf(at), label, base: before, adapter: after });
      }
    }
  }

  end(): Changes {
    return {
      name: this.#name,
      mended: this.#mended,
      broken: this.#broken,
      changed: this.#changed,
      examples: this.#examples,
    };
  }
}
