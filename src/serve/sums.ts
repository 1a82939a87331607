// Sums of adapters as they were last used. A session keeps what it has computed for a sum by the list that asked for it, so that
// the same sum must be the same list each time; as that takes the memory of its parts once more, sums are few and bounded.
import type { WeightedAdapter } from "../train/loaded-adapters.ts";
import type { RowChoice } from "./engine.ts";
import { ServeError } from "./serve-error.ts";

/** A weighted sum of keys. */
type SumChoice = Exclude<RowChoice, string | null>;

interface Sum {
  readonly parts: readonly WeightedAdapter[];
  readonly bytes: number;
}

interface SumLimits {
  readonly maxCount: number;
  /** Of those that are kept, and of those of one run. */
  readonly maxBytes: number;
}

export class Sums {
  readonly #limits: SumLimits;
  /** Bytes of a loaded adapter. */
  readonly #bytesOf: (key: string) => number;
  /** By their text, the least recently used first. */
  readonly #known = new Map<string, Sum>();
  #bytes = 0;

  constructor(limits: SumLimits, bytesOf: (key: string) => number) {
    this.#limits = limits;
    this.#bytesOf = bytesOf;
  }

  /** Bytes of those that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The list of a sum, the same as the last time where it is still kept. */
  listOf(choice: SumChoice): readonly WeightedAdapter[] {
    const text = JSON.stringify(choice);
    const sum = this.#known.get(text) ?? {
      parts: choice.map(({ key, weight }) => ({ adapter: key, weight })),
      bytes: this.#sizeOf(choice),
    };
    this.#drop(text);
    this.#known.set(text, sum);
    this.#bytes += sum.bytes;
    const { maxCount, maxBytes } = this.#limits;
    for (const other of this.#known.keys()) {
      if (this.#known.size <= maxCount && this.#bytes <= maxBytes) break;
      this.#drop(other);
    }
    return sum.parts;
  }

  /** Throws ServeError 400 when the different sums of one run would take more memory than sums may. */
  assertFit(choices: Iterable<RowChoice>): void {
    const different = new Map<string, number>();
    for (const choice of choices) {
      if (choice !== null && typeof choice !== "string") different.set(JSON.stringify(choice), this.#sizeOf(choice));
    }
    const bytes = Array.from(different.values()).reduce((sum, one) => sum + one, 0);
    const { maxBytes } = this.#limits;
    if (bytes <= maxBytes) return;
    throw new ServeError(
      400,
      `adapter: expected sums of adapters that take at most ${maxBytes} bytes together, got ${different.size} of ${bytes} bytes; send them in several requests`,
    );
  }

  /** Drops the sums that an adapter is a part of. */
  forget(key: string): void {
    for (const [text, { parts }] of this.#known) if (parts.some(({ adapter }) => adapter === key)) this.#drop(text);
  }

  #sizeOf(choice: SumChoice): number {
    return choice.reduce((sum, { key }) => sum + this.#bytesOf(key), 0);
  }

  #drop(text: string): void {
    this.#bytes -= this.#known.get(text)?.bytes ?? 0;
    this.#known.delete(text);
  }
}
