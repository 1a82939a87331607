// The adapters of a session: those that were loaded under a name, those that are given with a run, and weighted sums of either.
// A sum is one adapter of the summed rank, so that it is exact and costs one branch.
import { LowrankError, throwFaults } from "../errors.ts";
import type { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { stackRanks } from "../lora/stack.ts";
import type { Tensors } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";
import type { Fitted as BankAdapter } from "./row-bank.ts";

/** One part of a weighted sum: an adapter, or the name of a loaded one. */
export interface WeightedAdapter {
  readonly adapter: string | Adapter;
  /** Multiplies the adapter's update; default 1, any finite number. */
  readonly weight?: number;
}

/** A loaded adapter's name, an adapter, several to be summed, or null for the base. */
export type AdapterChoice = string | Adapter | readonly WeightedAdapter[] | null;

/** An adapter that fits the model. */
export interface Fitted extends BankAdapter {
  /** The tensors that it brings; sites without are not in it. */
  readonly keys: ReadonlySet<string>;
}

interface Part {
  readonly fitted: Fitted;
  readonly weight: number;
}

export class LoadedAdapters {
  readonly #adapted: AdaptedModel;
  readonly #fit: (adapter: Adapter) => Tensors;
  readonly #byName = new Map<string, Fitted>();
  readonly #given = new WeakMap<Adapter, Fitted>();
  /** Sums as they were last, by the list that asked for them: lists may be changed, and names loaded anew. */
  readonly #sums = new WeakMap<readonly WeightedAdapter[], { parts: readonly Part[]; fitted: Fitted }>();
  #count = 0;

  /** @param fit gives the adapter's tensors as the graph wants them, or throws what does not fit. */
  constructor(adapted: AdaptedModel, fit: (adapter: Adapter) => Tensors) {
    this.#adapted = adapted;
    this.#fit = fit;
  }

  get names(): string[] {
    return [...this.#byName.keys()];
  }

  load(name: string, adapter: Adapter): void {
    this.#byName.set(name, this.#fitted(adapter));
  }

  unload(name: string): void {
    if (!this.#byName.delete(name)) throw new LowrankError("adapter", `unload: ${this.#unknown(name)}`);
  }

  /** The adapter of each choice, null for the base. Throws LowrankError "adapter" that lists every name that is not loaded. */
  resolve(choices: readonly AdapterChoice[]): (Fitted | null)[] {
    const known = new Map<AdapterChoice, Fitted | null>();
    const faults = new Set<string>();
    for (const choice of choices) {
      if (known.has(choice)) continue;
      const found = typeof choice === "string" ? this.#byName.get(choice) : undefined;
      if (found === undefined) for (const fault of this.#faultsOf(choice)) faults.add(fault);
      known.set(choice, found ?? (faults.size === 0 ? this.#one(choice) : null));
    }
    throwFaults("adapter", "run", [...faults]);
    return choices.map((choice) => known.get(choice)!);
  }

  /** Names that are not loaded, and weights that are no numbers. */
  #faultsOf(choice: AdapterChoice): string[] {
    const parts = Array.isArray(choice) ? (choice as readonly WeightedAdapter[]) : [];
    const names = typeof choice === "string" ? [choice] : parts.map(({ adapter }) => adapter);
    return [
      ...names.flatMap((name) => (typeof name === "string" && !this.#byName.has(name) ? [this.#unknown(name)] : [])),
      ...parts.flatMap(({ weight = 1 }) =>
        Number.isFinite(weight) ? [] : [`weight: expected a finite number, got ${weight}`],
      ),
    ];
  }

  #one(choice: AdapterChoice): Fitted | null {
    if (choice === null) return null;
    if (typeof choice === "string") return this.#byName.get(choice)!;
    if (!isSum(choice)) return this.#fromObject(choice);
    const parts = choice.map(({ adapter, weight = 1 }) => ({
      fitted: typeof adapter === "string" ? this.#byName.get(adapter)! : this.#fromObject(adapter),
      weight,
    }));
    if (parts.length === 0) return null;
    if (parts.length === 1 && parts[0]!.weight === 1) return parts[0]!.fitted;
    const known = this.#sums.get(choice);
    if (known !== undefined && sameParts(known.parts, parts)) return known.fitted;
    const fitted = this.#sum(parts);
    this.#sums.set(choice, { parts, fitted });
    return fitted;
  }

  #fromObject(adapter: Adapter): Fitted {
    let fitted = this.#given.get(adapter);
    if (fitted === undefined) {
      fitted = this.#fitted(adapter);
      this.#given.set(adapter, fitted);
    }
    return fitted;
  }

  #fitted(adapter: Adapter): Fitted {
    return { id: this.#count++, tensors: this.#fit(adapter), keys: new Set(adapter.tensors.keys()) };
  }

  #sum(parts: readonly Part[]): Fitted {
    const keys = new Set(parts.flatMap(({ fitted }) => [...fitted.keys]));
    const factors = new Set(this.#adapted.sites.flatMap(({ a, b }) => [a, b]));
    const others = [...keys].filter((key) => !factors.has(key));
    throwFaults(
      "adapter",
      "run: several adapters at once",
      others.map((key) => `${key}: only A and B can be summed; run its adapter alone`),
    );
    const tensors = new Map<string, Tensor>(parts[0]!.fitted.tensors);
    for (const { site, a, b } of this.#adapted.sites) {
      const users = parts.filter(({ fitted }) => fitted.keys.has(a));
      if (users.length === 0) continue;
      const stacked = stackRanks(
        site,
        users.map(({ fitted, weight }) => ({ a: fitted.tensors.get(a)!, b: fitted.tensors.get(b)!, weight })),
      );
      tensors.set(a, stacked.a);
      tensors.set(b, stacked.b);
    }
    return { id: this.#count++, tensors, keys };
  }

  #unknown(name: string): string {
    const names = this.names;
    const shown = names.slice(0, 10).map((one) => JSON.stringify(one));
    const more = names.length > shown.length ? `, … (${names.length})` : "";
    const expected = names.length === 0 ? "no adapter is loaded" : `loaded are ${shown.join(", ")}${more}`;
    return `adapter ${JSON.stringify(name)}: ${expected}; load it first`;
  }
}

function sameParts(a: readonly Part[], b: readonly Part[]): boolean {
  return (
    a.length === b.length && a.every(({ fitted, weight }, at) => fitted === b[at]!.fitted && weight === b[at]!.weight)
  );
}

function isSum(choice: Adapter | readonly WeightedAdapter[]): choice is readonly WeightedAdapter[] {
  return Array.isArray(choice);
}
