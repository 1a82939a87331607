// The project's one source of random numbers: seeded, the same on every machine, and splittable by name.
// Generator: xoshiro128** 1.1 (Blackman & Vigna 2021, "Scrambled linear pseudorandom number generators",
// doi:10.1145/3460772), period 2^128 - 1. Seeding: SplitMix64 (Steele, Lea & Flood 2014), as its authors advise,
// from the seed mixed with the FNV-1a hash of the stream's name.
import { LowrankError } from "./errors.ts";

/** Everything that a generator has to remember to go on where it was; plain JSON. */
export interface RandomState {
  /** The generator's four 32-bit words, not all zero. */
  words: [number, number, number, number];
  /** The second value of the last pair of normals, when only the first was used. */
  spareNormal: number | null;
}

export interface Random {
  /** The next 32 bits, 0 to 2^32 - 1. */
  uint32(): number;
  /** Fills an array with the next 32-bit numbers, as many as it holds, in less time than one by one; returns it. */
  fillUint32(values: Uint32Array): Uint32Array;
  /** Uniform in [0, 1), 53 bits. */
  uniform(): number;
  /** Uniform among 0 … n - 1, without modulo bias; n is 1 to 2^32. */
  integer(n: number): number;
  /** Standard normal, N(0, 1). */
  normal(): number;
  /** Puts the values in a uniformly random order, in place (Fisher-Yates). */
  shuffle(values: Int32Array | unknown[]): void;
  /** A copy of the state, for a checkpoint. */
  state(): RandomState;
  /** Goes on from a saved state. Throws LowrankError "data" when it is none. */
  restore(state: RandomState): void;
}

/**
 * A generator for one purpose. The same seed and stream always give the same sequence; streams of other names are
 * independent of it, so that drawing more numbers for one purpose never changes another.
 *
 * Throws LowrankError "config" unless the seed is an integer of at most 2^53 - 1 in size.
 *
 * @example
 * const order = Int32Array.from({ length: 60000 }, (_, i) => i);
 * createRandom(0, "shuffle").shuffle(order);
 */
export function createRandom(seed: number, stream = ""): Random {
  if (!Number.isSafeInteger(seed)) {
    throw new LowrankError("config", `seed: expected a whole number of at most 2^53 - 1, got ${seed}; give another`);
  }
  const words = new Uint32Array(4); // a typed array: plain numbers over 2^31 would be boxed at each step
  let spareNormal: number | null = null;
  seedWords(words, seed, stream);

  function uniform(): number {
    const high = nextUint32(words) >>> 5; // 27 bits
    const low = nextUint32(words) >>> 6; // 26 bits
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  // Marsaglia & Bray 1964: the polar form of Box-Muller. Of the transcendental functions it needs only the logarithm.
  function normal(): number {
    if (spareNormal !== null) {
      const spare = spareNormal;
      spareNormal = null;
      return spare;
    }
    for (;;) {
      const x = 2 * uniform() - 1;
      const y = 2 * uniform() - 1;
      const square = x * x + y * y;
      if (square >= 1 || square === 0) continue;
      const factor = Math.sqrt((-2 * Math.log(square)) / square);
      spareNormal = y * factor;
      return x * factor;
    }
  }

  return {
    uint32: () => nextUint32(words),
    fillUint32: (values) => fillUint32(words, values),
    uniform,
    integer: (n) => boundedInteger(words, n),
    normal,
    shuffle: (values) => shuffle(words, values),
    state: () => ({ words: [words[0]!, words[1]!, words[2]!, words[3]!], spareNormal }),
    restore(state) {
      checkState(state);
      words.set(state.words);
      spareNormal = state.spareNormal;
    },
  };
}

function nextUint32(s: Uint32Array): number {
  const s1 = s[1]!;
  const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0;
  s[2]! ^= s[0]!;
  s[3]! ^= s1;
  s[1]! ^= s[2]!;
  s[0]! ^= s[3]!;
  s[2]! ^= s1 << 9;
  s[3] = rotateLeft(s[3]!, 11);
  return result;
}

/** `nextUint32` again and again, with the words in registers. */
function fillUint32(words: Uint32Array, values: Uint32Array): Uint32Array {
  let [s0, s1, s2, s3] = [words[0]! | 0, words[1]! | 0, words[2]! | 0, words[3]! | 0];
  for (let at = 0; at < values.length; at++) {
    values[at] = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9);
    const shifted = s1 << 9;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = rotateLeft(s3, 11);
  }
  words.set([s0, s1, s2, s3]);
  return values;
}

function rotateLeft(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

function boundedInteger(words: Uint32Array, n: number): number {
  if (!Number.isInteger(n) || n < 1 || n > 2 ** 32) throw new Error(`internal: random integer below ${n}`);
  const limit = 2 ** 32 - (2 ** 32 % n); // the largest multiple of n: values past it would favour small results
  for (;;) {
    const x = nextUint32(words);
    if (x < limit) return x % n;
  }
}

function shuffle(words: Uint32Array, values: Int32Array | unknown[]): void {
  for (let i = values.length - 1; i > 0; i--) {
    const j = boundedInteger(words, i + 1);
    const value = values[i];
    values[i] = values[j] as number;
    values[j] = value as number;
  }
}

/** The words cannot all be zero: SplitMix64 yields each 64-bit value, zero too, only once in its period. */
function seedWords(words: Uint32Array, seed: number, stream: string): void {
  const mixed = splitMix64(BigInt.asUintN(64, BigInt(seed)))();
  const next = splitMix64(mixed ^ fnv1a64(stream));
  for (let i = 0; i < 4; i += 2) {
    const bits = next();
    words[i] = Number(bits & 0xffffffffn);
    words[i + 1] = Number(bits >> 32n);
  }
}

/** A 64-bit sequence of well-mixed values from any seed; exported for its known-answer test. */
export function splitMix64(seed: bigint): () => bigint {
  let state = seed;
  return () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let z = state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  };
}

/** FNV-1a (Fowler, Noll & Vo) of the UTF-8 bytes; exported for its known-answer test. */
export function fnv1a64(text: string): bigint {
  // In halves: the prime is 2^40 + 435, and 2^40 moves the lower half's 24 lowest bits into the upper one.
  let [high, low] = [0xcbf29ce4, 0x84222325];
  for (const byte of new TextEncoder().encode(text)) {
    low = (low ^ byte) >>> 0;
    const product = low * 435;
    high = (high * 435 + Math.floor(product / 2 ** 32) + ((low << 8) >>> 0)) % 2 ** 32;
    low = product >>> 0;
  }
  return (BigInt(high) << 32n) | BigInt(low);
}

function checkState(state: RandomState): void {
  const { words, spareNormal } = state;
  const isWord = (word: unknown): boolean => Number.isInteger(word) && (word as number) >>> 0 === word;
  const wordsFine = Array.isArray(words) && words.length === 4 && words.every(isWord) && words.some((word) => word > 0);
  if (wordsFine && (spareNormal === null || Number.isFinite(spareNormal))) return;
  throw new LowrankError(
    "data",
    "random state: expected four 32-bit words, not all zero, and a number or null; the checkpoint is damaged",
  );
}
