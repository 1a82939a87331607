// The playground's parts that need no browser: a drawing made into a digit as MNIST's were, and the state in an address.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { centreOfMass, digitOf, type Stroke } from "../playground/src/digit/drawing.ts";
import { digitOfPixels } from "../playground/src/digit/scan.ts";
import { defaults, limits, readAddress, type SharedState, writeAddress } from "../playground/src/state/address.ts";

/** Rows and columns that hold ink. */
function box(bytes: Uint8Array): { width: number; height: number } {
  const at = [...bytes.keys()].filter((index) => bytes[index]! > 127);
  const [columns, rows] = [at.map((index) => index % 28), at.map((index) => Math.floor(index / 28))];
  return {
    width: Math.max(...columns) - Math.min(...columns) + 1,
    height: Math.max(...rows) - Math.min(...rows) + 1,
  };
}

const seven: Stroke = [
  { x: 3, y: 3 },
  { x: 9, y: 3 },
  { x: 6, y: 12 },
];

describe("a drawing", () => {
  it("is nothing without strokes, and a dot stays a dot", () => {
    expect(digitOf([])).toBeNull();
    const dot = digitOf([[{ x: 4, y: 22 }]])!;
    expect(box(dot)).toEqual({ width: 2, height: 2 });
    expect(centreOfMass(dot).x).toBeCloseTo(14, 1);
    expect(centreOfMass(dot).y).toBeCloseTo(14, 1);
  });

  it("has its larger side at 20 pixels and its centre of mass in the middle, wherever and however large it was drawn", () => {
    const place = fc.record({
      x: fc.double({ min: 0, max: 10, noNaN: true }),
      size: fc.double({ min: 0.5, max: 1.4, noNaN: true }),
    });
    const first = digitOf([seven])!;
    expect(box(first).height).toBe(20);
    fc.assert(
      fc.property(place, ({ x, size }) => {
        const other = digitOf([seven.map((point) => ({ x: x + point.x * size, y: point.y * size }))])!;
        const mass = centreOfMass(other);
        expect(Math.hypot(mass.x - 14, mass.y - 14)).toBeLessThan(0.15);
        expect(Math.abs(box(other).height - 20)).toBeLessThanOrEqual(1);
        // The same digit, but for a pixel's rounding at its edges.
        const difference = other.reduce((sum, value, at) => sum + Math.abs(value - first[at]!), 0) / 784;
        expect(difference).toBeLessThan(4);
      }),
    );
  });

  it("of a straight line down is a straight line down", () => {
    const one = digitOf([
      [
        { x: 14, y: 2 },
        { x: 14, y: 26 },
      ],
    ])!;
    expect(box(one)).toEqual({ width: 2, height: 20 });
    expect(one[14 * 28 + 13]).toBe(255);
    expect(one[14 * 28 + 9]).toBe(0);
  });
});

describe("a picture", () => {
  const painted = (paper: number, ink: number): Uint8ClampedArray => {
    const data = new Uint8ClampedArray(60 * 40 * 4).fill(paper);
    for (let row = 8; row < 32; row++) {
      for (let column = 20; column < 26; column++) data.fill(ink, 4 * (row * 60 + column), 4 * (row * 60 + column) + 3);
    }
    return data;
  };

  it("becomes light ink on dark, 20 pixels high, in the middle, whichever way round it was", () => {
    const dark = digitOfPixels(painted(240, 20), 60);
    const light = digitOfPixels(painted(10, 230), 60);
    expect(box(dark)).toEqual({ width: 6, height: 20 });
    expect(centreOfMass(dark).x).toBeCloseTo(14, 0);
    expect(light).toEqual(dark);
    expect(dark[14 * 28 + 14]).toBe(255);
    expect(dark[0]).toBe(0);
  });

  it("with nothing on it is refused", () => {
    expect(() => digitOfPixels(painted(200, 200), 60)).toThrow("There is nothing on this picture");
  });
});

describe("an address", () => {
  const within = ({ from, to }: { from: number; to: number }) =>
    fc.integer({ min: from * 4, max: to * 4 }).map((value) => value / 4);
  const point = fc.record({
    x: fc.integer({ min: 0, max: 224 }).map((x) => x / 8),
    y: fc.integer({ min: 0, max: 224 }).map((y) => y / 8),
  });
  const subject: fc.Arbitrary<SharedState["subject"]> = fc.oneof(
    fc.record({
      kind: fc.constant("strokes" as const),
      strokes: fc.array(fc.array(point, { minLength: 1, maxLength: 30 }), { maxLength: 5 }),
    }),
    fc.record({
      kind: fc.constant("digit" as const),
      set: fc.constantFrom("misread" as const, "kept" as const),
      index: fc.nat(9999),
    }),
    fc.record({
      kind: fc.constant("photo" as const),
      pixels: fc.uint8Array({ minLength: 784, maxLength: 784, max: 15 }).map((steps) => steps.map((step) => step * 17)),
    }),
  );
  const state: fc.Arbitrary<SharedState> = fc.record({
    subject,
    blend: fc
      .uniqueArray(fc.stringMatching(/^[a-z0-9-]{1,12}$/), { maxLength: 4 })
      .chain((ids) => fc.tuple(...ids.map((id) => fc.record({ id: fc.constant(id), weight: within(limits.weight) })))),
    on: fc.boolean(),
    strength: within(limits.strength),
    rank: fc.option(fc.integer({ min: 1, max: 64 })),
    layer: fc.constantFrom("fc1", "fc2", "fc3"),
    mode: fc.constantFrom("digits" as const, "symbols" as const),
    training: fc.record({
      r: fc.integer({ min: 1, max: 32 }),
      alpha: within(limits.alpha),
      targets: fc.subarray(["fc1", "fc2", "fc3"], { minLength: 1 }),
      learningRate: fc.constantFrom(0.0001, 0.003, 0.05),
      steps: fc.integer({ min: 5, max: 2000 }),
      replay: within(limits.replay),
    }),
  });

  it("brings back the state that it was made of", () => {
    fc.assert(
      fc.property(state, (given) => {
        const { state: read, faults } = readAddress(`#${writeAddress(given)}`);
        expect(faults).toEqual([]);
        expect(read).toEqual(given);
      }),
    );
  });

  it("leaves out what is as usual", () => {
    expect(writeAddress(defaults)).toBe("d=m0");
  });

  it("never throws, and names each part that it does not take", () => {
    const names = [
      "d",
      "mix",
      "on",
      "strength",
      "rank",
      "layer",
      "mode",
      "r",
      "alpha",
      "lr",
      "steps",
      "replay",
      "layers",
    ];
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...names), fc.string()), (parts) => {
        const { state: read, faults } = readAddress(`#${new URLSearchParams(parts)}`);
        expect(faults.every((name) => names.includes(name))).toBe(true);
        // Whatever came out can be written and read again.
        expect(readAddress(writeAddress(read)).state).toEqual(read);
      }),
    );
    const { state: read, faults } = readAddress(
      "#rank=65&r=0&steps=5.5&strength=NaN&d=s!!&lr=1e9&layers=fc9&mix=a:1,a:2&on=2",
    );
    expect(faults).toEqual(["d", "mix", "on", "strength", "rank", "r", "lr", "steps", "layers"]);
    expect(read).toEqual(defaults);
  });
});
