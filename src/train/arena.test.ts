import { afterEach, describe, expect, it, vi } from "vitest";
import { LowrankError } from "../errors.ts";
import { createArena, endWithPadding, kernelsOf } from "./arena.ts";
import { optimizerWasm } from "./gen/optimizer-wasm.ts";

/** Some members of a global that TypeScript's library without a DOM does not know. */
function members(name: string, keys: string[]): Record<string, unknown> {
  const whole = (globalThis as unknown as Record<string, Record<string, unknown>>)[name]!;
  return Object.fromEntries(keys.map((key) => [key, whole[key]]));
}

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

describe("createArena", () => {
  it("lays zeroed arrays one behind the other, each on a 64-byte boundary", () => {
    const lengths = [10, 16, 1, 0, 33];
    const arena = createArena(lengths);
    const arrays = lengths.map((length) => arena.allocate(length));
    expect(arena.kind).toBe("wasm");
    expect(arrays.map(({ length }) => length)).toEqual(lengths);
    // The first 64 bytes hold the kernels' factors.
    expect(arrays.map(({ byteOffset }) => byteOffset)).toEqual([64, 128, 192, 256, 256]);
    expect(new Set(arrays.map(({ buffer }) => buffer)).size).toBe(1);
    expect(arrays.every((array) => array.every((value) => value === 0))).toBe(true);
    expect(arena.free).toBe(0);
  });

  it("has room for its lengths in any order, and for no more", () => {
    const arena = createArena([10, 20]);
    arena.allocate(20);
    expect(arena.free).toBe(16);
    arena.allocate(10);
    expect(() => arena.allocate(1)).toThrow("arena: expected at most the 0 floats that are left, got 1");
  });

  it("reports every length that is no count", () => {
    const make = () => createArena([1, -1, 2.5, Number.NaN]);
    expect(make).toThrow(LowrankError);
    expect(make).toThrow(/lengths\[1\].*\n.*lengths\[2\].*\n.*lengths\[3\]/);
  });

  it("gives ordinary arrays when asked to, past 4 GiB, and without WebAssembly", () => {
    expect(createArena([4], { plain: true }).kind).toBe("plain");
    expect(createArena([2 ** 30]).kind).toBe("plain");
    vi.stubGlobal("WebAssembly", undefined);
    const arena = createArena([4]);
    expect(arena.kind).toBe("plain");
    const array = arena.allocate(4);
    expect([...array]).toEqual([0, 0, 0, 0]);
    expect(kernelsOf(array)).toBeUndefined();
    expect(() => arena.allocate(4)).toThrow(LowrankError);
  });

  it("says how much memory was missing", () => {
    expect(() => createArena([2 ** 50]).allocate(2 ** 50)).toThrow(
      "arena: expected 4503599627370496 bytes of free memory",
    );
  });

  it("gives ordinary arrays when the kernel does not compile", async () => {
    vi.resetModules(); // the compiled module is kept
    const { createArena: create } = await import("./arena.ts");
    class NoSimd {
      constructor() {
        throw new Error("invalid opcode 0xfd");
      }
    }
    vi.stubGlobal("WebAssembly", { ...members("WebAssembly", ["Memory", "Instance"]), Module: NoSimd });
    expect(create([4]).kind).toBe("plain");
  });
});

describe("kernelsOf", () => {
  it("finds the kernels of the arena that a view lies in", () => {
    const [one, other] = [createArena([8, 8]), createArena([8])];
    const array = one.allocate(8);
    expect(kernelsOf(array)?.factors.buffer).toBe(array.buffer);
    expect(kernelsOf(array.subarray(2, 4))).toBe(kernelsOf(one.allocate(8)));
    expect(kernelsOf(other.allocate(8))).not.toBe(kernelsOf(array));
    expect(kernelsOf(new Float32Array(8))).toBeUndefined();
  });
});

describe("endWithPadding", () => {
  it("is where the next allocation starts, and a part's own end", () => {
    const arena = createArena([10, 10]);
    const [first, second] = [arena.allocate(10), arena.allocate(10)];
    expect(endWithPadding(first)).toBe(second.byteOffset);
    expect(endWithPadding(first.subarray(0, 8))).toBe(first.byteOffset + 32);
    expect(endWithPadding(new Float32Array(3))).toBe(12);
  });
});

describe("the kernels", () => {
  it("stay tiny: under 2 kB of WebAssembly", () => {
    expect(atob(optimizerWasm).length).toBeLessThan(2048);
  });
});
