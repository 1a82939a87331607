// One region of memory for parameters, gradients and optimizer state. It is an unshared WebAssembly memory: the runtime
// reads parameters and writes gradients in place, and the optimizer kernel updates weights where the next run reads
// them; nothing is copied. Its size is fixed at creation, since growing a memory detaches every view of it.
// Without WebAssembly SIMD, or past 4 GiB, the arrays are ordinary ones and the optimizers run their TypeScript twins.
import { LowrankError, throwFaults } from "../errors.ts";
import { kernelModule, mostPages, pageBytes } from "../webassembly.ts";
import { optimizerWasm } from "./gen/optimizer-wasm.ts";

/** Hands out zeroed float32 arrays that live as long as it does. */
export interface Arena {
  /** "wasm": in one WebAssembly memory, where the kernel works. "plain": ordinary arrays, for the TypeScript twin. */
  readonly kind: "wasm" | "plain";
  /** How many floats can still be allocated, padding included. */
  readonly free: number;
  /**
   * The next `length` floats, zeroed. In a "wasm" arena each array starts on a 64-byte boundary, directly behind the one
   * before it.
   *
   * Throws "config" when the arena is too small: createArena must be told of every array.
   */
  allocate(length: number): Float32Array;
}

export interface ArenaOptions {
  /** Ordinary arrays even where WebAssembly is there: to compare, or to keep out of a broken engine. Default false. */
  plain?: boolean;
}

/** The compiled kernels, bound to one arena's memory. Arrays are named by their byte offsets in it. */
export interface Kernels {
  /** Scratch in the same memory (16 floats), for the factors of one call. */
  readonly factors: Float32Array;
  /** See kernels/optimizer.as.ts. */
  readonly adam: (p: number, g: number, m: number, v: number, count: number, factors: number) => void;
  /** SGD with momentum, and Lion: parameters, gradients, momentum. */
  readonly sgd: (p: number, g: number, u: number, count: number, factors: number) => void;
  readonly lion: (p: number, g: number, m: number, count: number, factors: number) => void;
  /** The sum of the squares of `count` floats. */
  readonly squares: (x: number, count: number) => number;
}

/** Every array starts on a boundary of so many floats: 64 bytes, a cache line, and what the runtime's kernels like. */
const ALIGNMENT = 16;
const FLOAT_BYTES = 4;

/**
 * An arena that has room for arrays of exactly these lengths (in floats), allocated in any order.
 *
 * Throws "config" for lengths that are no counts, and "runtime" when there is not enough memory.
 *
 * @example
 * const arena = createArena([784_000, 1_000]);
 * const weight = arena.allocate(784_000);
 * const bias = arena.allocate(1_000);
 */
export function createArena(lengths: readonly number[], options: ArenaOptions = {}): Arena {
  throwFaults(
    "config",
    "createArena",
    lengths.flatMap((length, i) => (isCount(length) ? [] : [`lengths[${i}]: expected a whole number, got ${length}`])),
  );
  const capacity = lengths.reduce((total, length) => total + padded(length), 0);
  const region = options.plain ? undefined : createRegion(capacity);
  let used = 0;
  return {
    kind: region === undefined ? "plain" : "wasm",
    get free() {
      return capacity - used;
    },
    allocate(length) {
      if (!isCount(length) || padded(length) > capacity - used) {
        const message = `arena: expected at most the ${capacity - used} floats that are left, got ${length}`;
        throw new LowrankError("config", `${message}; give createArena the lengths of all arrays`);
      }
      const start = used;
      used += padded(length);
      return region === undefined ? plainArray(length) : region.view(start, length);
    },
  };
}

/** The kernels that can work on `array`: those of the arena that it lies in; undefined for an ordinary array. */
export function kernelsOf(array: Float32Array): Kernels | undefined {
  return regions.get(array.buffer)?.kernels;
}

/**
 * Where the allocation after `array` starts, in bytes from the start of its memory. Between the end of the array and
 * there lies only padding, which is zero and belongs to nobody. For a view that is not an allocation as it was handed
 * out, it is the view's own end.
 */
export function endWithPadding(array: Float32Array): number {
  const isAllocation = regions.get(array.buffer)?.lengths.get(array.byteOffset) === array.length;
  return array.byteOffset + (isAllocation ? padded(array.length) : array.length) * FLOAT_BYTES;
}

interface Region {
  readonly kernels: Kernels;
  /** Lengths of the allocations by their byte offset. */
  readonly lengths: Map<number, number>;
  view(start: number, length: number): Float32Array;
}

/** By memory, so that any view finds the kernels of its arena. */
const regions = new WeakMap<ArrayBufferLike, Region>();

/** A WebAssembly memory of so many floats with the kernels in it; undefined where that cannot be had. */
function createRegion(capacity: number): Region | undefined {
  const first = ALIGNMENT; // the factors come before the arrays
  const pages = Math.ceil(((first + capacity) * FLOAT_BYTES) / pageBytes);
  if (pages > mostPages) return undefined;
  try {
    const { exports, buffer } = instantiate({ initial: pages, maximum: pages });
    const lengths = new Map<number, number>();
    const region: Region = {
      kernels: {
        factors: new Float32Array(buffer, 0, first),
        adam: exports.adam,
        sgd: exports.sgd,
        lion: exports.lion,
        squares: exports.squares,
      },
      lengths,
      view(start, length) {
        const offset = (first + start) * FLOAT_BYTES;
        if (length > 0) lengths.set(offset, length);
        return new Float32Array(buffer, offset, length);
      },
    };
    regions.set(buffer, region);
    return region;
  } catch {
    // Where WebAssembly cannot be had, ordinary arrays do.
    return undefined;
  }
}

const instantiate = kernelModule<Omit<Kernels, "factors">>(optimizerWasm);

function plainArray(length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch (cause) {
    const bytes = length * FLOAT_BYTES;
    throw new LowrankError("runtime", `arena: expected ${bytes} bytes of free memory; train fewer parameters`, {
      cause,
    });
  }
}

function padded(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

function isCount(length: number): boolean {
  return Number.isSafeInteger(length) && length >= 0;
}
