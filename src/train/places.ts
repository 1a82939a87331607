// Which example's row is where among rows that are kept in the order in which they came. Asked for each example of each step,
// so that examples are looked up in an array; numbers that are too large for one, in a map.

/** Numbers below it are looked up in an array, of 16 MiB at most. */
const arrayLimit = 2 ** 22;

export class Places {
  /** By the number of the example: one more than its place, 0 for none. */
  #near = new Int32Array(0);
  readonly #far = new Map<number, number>();
  #count = 0;

  /** How many there are: the next place. */
  get count(): number {
    return this.#count;
  }

  has(key: number): boolean {
    return this.#after(key) > 0;
  }

  /** Gives an example the next place. */
  add(key: number): void {
    this.#count++;
    if (!isNear(key)) {
      this.#far.set(key, this.#count);
      return;
    }
    if (key >= this.#near.length) {
      const longer = new Int32Array(Math.min(arrayLimit, Math.max(1024, 2 * key)));
      longer.set(this.#near);
      this.#near = longer;
    }
    this.#near[key] = this.#count;
  }

  /** The places of these examples; null where one of them has none. */
  of(keys: ArrayLike<number>): Int32Array | null {
    const places = new Int32Array(keys.length);
    for (let at = 0; at < keys.length; at++) {
      const after = this.#after(keys[at]!);
      if (after === 0) return null;
      places[at] = after - 1;
    }
    return places;
  }

  #after(key: number): number {
    return (isNear(key) ? this.#near[key] : this.#far.get(key)) ?? 0;
  }
}

function isNear(key: number): boolean {
  return Number.isInteger(key) && key >= 0 && key < arrayLimit;
}
