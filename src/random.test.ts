import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createRandom, fnv1a64, splitMix64 } from "./random.ts";

const draw = <T>(count: number, next: () => T): T[] => Array.from({ length: count }, next);

describe("the generators against their published outputs", () => {
  it("xoshiro128** from the state 1, 2, 3, 4", () => {
    const random = createRandom(0);
    random.restore({ words: [1, 2, 3, 4], spareNormal: null });
    expect(draw(10, random.uint32)).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });

  it("fills arrays with what it would give one by one, and goes on behind it", () => {
    const [one, other] = [createRandom(5, "fill"), createRandom(5, "fill")];
    for (const length of [0, 1, 7, 100]) {
      const filled = one.fillUint32(new Uint32Array(length));
      expect([...filled, one.uint32()]).toEqual(draw(length + 1, other.uint32));
    }
  });

  it("SplitMix64 from the seed 1234567", () => {
    expect(draw(5, splitMix64(1234567n))).toEqual([
      6457827717110365317n,
      3203168211198807973n,
      9817491932198370423n,
      4593380528125082431n,
      16408922859458223821n,
    ]);
  });

  it("FNV-1a, 64 bits", () => {
    expect(["", "a", "foobar"].map(fnv1a64)).toEqual([0xcbf29ce484222325n, 0xaf63dc4c8601ec8cn, 0x85944171f73967e8n]);
  });
});

describe("createRandom", () => {
  it("is pinned: changing any of these changes every seeded run", () => {
    expect(draw(4, createRandom(0, "init").uint32)).toEqual([2097233861, 3661402651, 3614055544, 3616455569]);
    expect(draw(3, createRandom(0, "init").normal)).toEqual([
      -0.04226144765566952, 1.2334276963357538, 0.4235159583549716,
    ]);
  });

  it("repeats for the same seed and stream, and differs for another of either", () => {
    const first = (seed: number, stream?: string): number[] => draw(8, createRandom(seed, stream).uint32);
    expect(first(7, "shuffle")).toEqual(first(7, "shuffle"));
    const sequences = [
      first(7),
      first(7, "shuffle"),
      first(7, "replay"),
      first(8, "shuffle"),
      first(-7),
      first(Number.MAX_SAFE_INTEGER),
    ];
    expect(new Set(sequences.map(String)).size).toBe(sequences.length);
  });

  it.each([0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])("refuses the seed %s", (seed) => {
    expect(() => createRandom(seed)).toThrowError(
      expect.objectContaining({ code: "config", message: expect.stringContaining(`got ${seed}`) }),
    );
  });

  it("streams are uncorrelated", () => {
    const a = createRandom(3, "a");
    const b = createRandom(3, "b");
    const count = 20_000;
    let sum = 0;
    for (let i = 0; i < count; i++) sum += (a.uniform() - 0.5) * (b.uniform() - 0.5);
    expect(Math.abs(sum / count) * 12).toBeLessThan(4 / Math.sqrt(count)); // correlation, four standard errors
  });
});

describe("uniform", () => {
  it("takes 27 and 26 bits, and stays below 1 where all of them are set", () => {
    const random = createRandom(0);
    random.restore({ words: [1, 0, 0, 0], spareNormal: null }); // gives 0, then 5760
    expect(random.uniform()).toBe((5760 >>> 6) / 2 ** 53);
    random.restore({ words: [0, 2199679431, 0, 0], spareNormal: null }); // gives 2^32 - 1 twice
    expect(random.uniform()).toBe(1 - 2 ** -53);
  });

  it("fills ten bins evenly (chi-square, 9 degrees of freedom)", () => {
    const random = createRandom(11, "bins");
    const bins = new Array<number>(10).fill(0);
    for (let i = 0; i < 100_000; i++) bins[Math.floor(random.uniform() * 10)]! += 1;
    const chiSquare = bins.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
    expect(chiSquare).toBeLessThan(27.9); // passes 99.9 % of all seeds
  });
});

describe("integer", () => {
  it("is below n for every n and seed", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 2 ** 32 }), (seed, n) => {
        const value = createRandom(seed).integer(n);
        return Number.isInteger(value) && value >= 0 && value < n;
      }),
    );
  });

  it("has no modulo bias: of n = 3 * 2^30, a third falls in each third", () => {
    const random = createRandom(5, "bias"); // a plain modulo would give the first third one half
    const thirds = [0, 0, 0];
    for (let i = 0; i < 30_000; i++) thirds[Math.floor(random.integer(3 * 2 ** 30) / 2 ** 30)]! += 1;
    for (const count of thirds) expect(Math.abs(count - 10_000)).toBeLessThan(330); // four standard deviations
  });

  it.each([0, -1, 1.5, 2 ** 32 + 1, Number.NaN])("refuses n = %s", (n) => {
    expect(() => createRandom(0).integer(n)).toThrow("internal:");
  });
});

describe("normal", () => {
  it("has the moments of N(0, 1)", () => {
    const random = createRandom(2, "normal");
    const count = 100_000;
    const values = draw(count, random.normal);
    const moment = (power: number): number => values.reduce((sum, value) => sum + value ** power, 0) / count;
    expect(Math.abs(moment(1))).toBeLessThan(4 * Math.sqrt(1 / count)); // each within four standard errors
    expect(Math.abs(moment(2) - 1)).toBeLessThan(4 * Math.sqrt(2 / count));
    expect(Math.abs(moment(3))).toBeLessThan(4 * Math.sqrt(15 / count));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(4 * Math.sqrt(96 / count));
  });
});

describe("shuffle", () => {
  it("permutes", () => {
    fc.assert(
      fc.property(fc.integer(), fc.array(fc.integer()), (seed, values) => {
        const shuffled = Int32Array.from(values);
        createRandom(seed).shuffle(shuffled);
        expect(shuffled.toSorted()).toEqual(Int32Array.from(values).sort());
      }),
    );
  });

  it("reaches all orders of three equally often", () => {
    const random = createRandom(1, "orders");
    const counts = new Map<string, number>();
    for (let i = 0; i < 12_000; i++) {
      const order = ["a", "b", "c"];
      random.shuffle(order);
      counts.set(order.join(""), (counts.get(order.join("")) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(["abc", "acb", "bac", "bca", "cab", "cba"]);
    for (const count of counts.values()) expect(Math.abs(count - 2000)).toBeLessThan(4 * Math.sqrt(2000 * (5 / 6)));
  });
});

describe("state and restore", () => {
  it("goes on exactly, through JSON and in the middle of a pair of normals", () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(7), (seed, drawn) => {
        const random = createRandom(seed, "resume");
        draw(drawn, random.normal);
        const saved = JSON.stringify(random.state());
        const expected = [...draw(5, random.normal), random.uint32()];
        const resumed = createRandom(0);
        resumed.restore(JSON.parse(saved));
        expect([...draw(5, resumed.normal), resumed.uint32()]).toEqual(expected);
      }),
    );
  });

  it("gives a copy, not a view", () => {
    const random = createRandom(4);
    const before = random.state();
    const copy = structuredClone(before);
    random.uint32();
    expect(before).toEqual(copy);
  });

  it.each([
    ["all zero", { words: [0, 0, 0, 0], spareNormal: null }],
    ["too few words", { words: [1, 2, 3], spareNormal: null }],
    ["a word past 32 bits", { words: [1, 2, 3, 2 ** 32], spareNormal: null }],
    ["a negative word", { words: [1, 2, 3, -1], spareNormal: null }],
    ["a fraction", { words: [1, 2, 3, 0.5], spareNormal: null }],
    ["no words", { spareNormal: null }],
    ["a spare that is no number", { words: [1, 2, 3, 4], spareNormal: "1" }],
  ])("refuses a state with %s", (_, state) => {
    expect(() => createRandom(0).restore(state as never)).toThrowError(expect.objectContaining({ code: "data" }));
  });
});
