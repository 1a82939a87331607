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
  /**
   * What is copied from here on is kept apart. What was copied since the last turn was last read at the time `lastRead`; copies
   * that were last read before the time `before` are done with.
   */
  turn(lastRead: number, before: number): void;
}

/** @example memory.turn(7, 6); // what is in use was last read at 7; what was last read at 5 may be filled again */
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
    turn(lastRead, before) {
      for (const { leave } of copiers) leave();
      for (const { turn } of [singles, doubles, blocks]) turn(lastRead, before);
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
  /** An array of at least this length. */
  take(length: number): A;
  turn(lastRead: number, before: number): void;
}

function pool<A extends Floats | Uint8Array>(create: (length: number) => A): Pool<A> {
  let taken: A[] = [];
  let free: A[] = [];
  let waiting: { readonly arrays: readonly A[]; readonly lastRead: number }[] = [];
  return {
    take(length) {
      // The shortest that will do: a long one is for long rows.
      const fitting = free.filter((array) => array.length >= length);
      const shortest = Math.min(...fitting.map((array) => array.length));
      const found = fitting.find((array) => array.length === shortest);
      free = free.filter((array) => array !== found);
      const array = found ?? create(length);
      taken.push(array);
      return array;
    },
    turn(lastRead, before) {
      waiting.push({ arrays: taken, lastRead });
      taken = [];
      // What was free and not needed again is let go.
      free = waiting.flatMap((one) => (one.lastRead < before ? one.arrays : []));
      waiting = waiting.filter((one) => one.lastRead >= before);
    },
  };
}
