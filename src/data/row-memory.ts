// Where the numbers of rows are copied to. Rows share arrays, since to allocate one for each takes as long as to fill it. Of data
// that are gone over block by block, arrays are filled again when their rows are done with: left to the collector, some 60 MB of
// them would lie around before it looks.
import type { Floats } from "./table.ts";

/** Rows share arrays of so many numbers. */
const sharedNumbers = 2 ** 16;

export interface RowMemory {
  /** A copy of the first `count` numbers of a typed array, or of all `count` of a list. */
  float32(numbers: ArrayLike<number>, count: number): Floats;
  float64(numbers: ArrayLike<number>, count: number): Floats;
  /** Room for so many bytes; what is in it is of no meaning. */
  bytes(length: number): Uint8Array;
}

/** Memory for rows that may stay for good. */
export const lasting: RowMemory = {
  float32: copier((length) => new Float32Array(length)).copy,
  float64: copier((length) => new Float64Array(length)).copy,
  bytes: (length) => new Uint8Array(length),
};

/** Memory that is used again. */
export interface TurningMemory extends RowMemory {
  /** Says that what was copied before the last call but one is done with: this call and those two make three. */
  turn(): void;
}

/** @example const memory = turningMemory(); for (;;) { memory.turn(); await table.read(block++, memory); } // rows of three blocks at a time */
export function turningMemory(): TurningMemory {
  const [singles, doubles, blocks] = [
    pool((length) => new Float32Array(length)),
    pool((length) => new Float64Array(length)),
    pool((length) => new Uint8Array(length)),
  ];
  const copiers = [copier(singles.take), copier(doubles.take)] as const;
  return {
    float32: copiers[0].copy,
    float64: copiers[1].copy,
    bytes: (length) => blocks.take(length).subarray(0, length),
    turn() {
      for (const { leave } of copiers) leave();
      for (const { turn } of [singles, doubles, blocks]) turn();
    },
  };
}

interface Copier {
  copy(numbers: ArrayLike<number>, count: number): Floats;
  /** The next copy goes to another array. */
  leave(): void;
}

/** @param take gives an array of at least this length. */
function copier(take: (length: number) => Floats): Copier {
  let shared: Floats | null = null;
  let used = 0;
  return {
    copy(numbers, count) {
      if (shared === null || used + count > shared.length) [shared, used] = [take(Math.max(count, sharedNumbers)), 0];
      const part = shared.subarray(used, used + count);
      used += count;
      part.set(ArrayBuffer.isView(numbers) ? (numbers as Floats).subarray(0, count) : numbers);
      return part;
    },
    leave() {
      shared = null;
    },
  };
}

interface Pool<A> {
  take(length: number): A;
  turn(): void;
}

function pool<A extends Floats | Uint8Array>(create: (length: number) => A): Pool<A> {
  let [free, older, last, now]: [A[], A[], A[], A[]] = [[], [], [], []];
  return {
    take(length) {
      const found = free.findIndex((array) => array.length >= length);
      const array = found < 0 ? create(length) : free.splice(found, 1)[0]!;
      now.push(array);
      return array;
    },
    turn() {
      // What was not needed again is let go.
      [free, older, last, now] = [older, last, now, []];
    },
  };
}
