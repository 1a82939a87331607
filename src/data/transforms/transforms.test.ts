// What each transform does to images that can be checked by eye, golden checksums for all, and what all have in common.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fnv1a64 } from "../../random.ts";
import { corruptionNames, type Images, parseTransform, transformImages, transformNames } from "./transforms.ts";

const side = 28;

/** A soft stroke from the upper left to the lower right, and a bar below it. */
function strokes(): Images<Uint8Array> & { data: Uint8Array } {
  const data = Uint8Array.from({ length: 2 * side * side }, (_, at) => {
    const [image, y, x] = [Math.floor(at / (side * side)), Math.floor(at / side) % side, at % side];
    const distance = image === 0 ? Math.abs(x - y) : Math.abs(y - 13.5);
    return x < 5 || x > 22 || y < 5 || y > 22 ? 0 : Math.round(255 * Math.max(0, Math.min(1, 2.5 - distance)));
  });
  return { data, height: side, width: side };
}

/** A white square on black, [size, size]. */
function square(size: number, from: number, to: number): Images<Float32Array> & { data: Float32Array } {
  const inside = (value: number): boolean => value >= from && value < to;
  const data = Float32Array.from({ length: size * size }, (_, at) =>
    Number(inside(at % size) && inside(Math.floor(at / size))),
  );
  return { data, height: size, width: size };
}

const apply = <T extends Uint8Array | Float32Array>(images: Images<T>, text: string, seed = 0): T =>
  transformImages(images, parseTransform(text), { seed });

const mean = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

const checksum = (bytes: Uint8Array): string => fnv1a64(bytes.join()).toString(16);

describe("what all have in common", () => {
  test.each(transformNames)("%s: same shape, range, deterministic, by image", (name) => {
    const images = strokes();
    const before = images.data.slice();
    const result = apply(images, name);
    expect(images.data).toEqual(before);
    expect(result.length).toBe(before.length);
    expect(apply(images, name)).toEqual(result);
    const second = { ...images, data: images.data.subarray(side * side) };
    const alone = transformImages(second, parseTransform(name), { seed: 0, first: 1 });
    expect(alone).toEqual(result.subarray(side * side));
    if (name !== "identity") expect(result).not.toEqual(before);
  });

  test("any size and number of channels stays in 0..1", () => {
    const size = fc.integer({ min: 1, max: 12 });
    const shape = fc.record({ height: size, width: size, channels: fc.constantFrom(1, 3) });
    const names = transformNames.filter((name) => name !== "fog"); // slow: tested below
    fc.assert(
      fc.property(shape, fc.constantFrom(...names), fc.integer({ min: 0, max: 1000 }), (dims, name, seed) => {
        const length = dims.height * dims.width * dims.channels;
        const data = Float32Array.from({ length }, (_, at) => ((at * 37 + seed) % 101) / 100);
        const result = apply({ data, ...dims }, name, seed);
        expect(result.length).toBe(length);
        expect(result.every((value) => value >= 0 && value <= 1)).toBe(true);
      }),
      { numRuns: 300, seed: 1 },
    );
  });

  test.each(["identity", "rotation:0", "thick:0", "thin:0"])("%s changes nothing", (name) => {
    const images = strokes();
    expect(apply(images, name)).toEqual(images.data);
  });
});

describe("golden images", () => {
  test.each([...corruptionNames, "rotation:30", "invert", "thick", "thin"])("%s", (name) => {
    expect(checksum(apply(strokes(), name))).toMatchSnapshot();
  });
});

describe("each on a known image", () => {
  test("rotation turns counterclockwise", () => {
    const corner = { data: Float32Array.of(0, 0, 1, 0, 0, 0, 0, 0, 0), height: 3, width: 3 };
    const turned = apply(corner, "rotation:90");
    expect([...turned].map((value) => Math.round(value * 1e6) / 1e6)).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0]);
    const bar = apply(strokes(), "rotation:75");
    expect(Math.abs(mean(bar) / mean(strokes().data) - 1)).toBeLessThan(0.01); // nothing is lost but rounding
  });

  test("invert is its own inverse", () => {
    const images = strokes();
    expect(apply({ ...images, data: apply(images, "invert") }, "invert")).toEqual(images.data);
  });

  test("thick and thin move the edges of a square by their radius", () => {
    expect(mean(apply(square(20, 6, 14), "thick:1")) * 400).toBeGreaterThan(85);
    expect(mean(apply(square(20, 6, 14), "thin:1")) * 400).toBeCloseTo(36, -1);
    expect(apply(square(20, 6, 14), "thick:1")[5 * 20 + 10]).toBeGreaterThan(0.6);
    expect(apply(square(20, 6, 14), "thin:1")[6 * 20 + 10]).toBeLessThan(0.5);
  });

  test("shot noise keeps the mean and counts in thirds", () => {
    const gray = { data: new Float32Array(10_000).fill(0.2), height: 100, width: 100 };
    const noisy = apply(gray, "shot_noise");
    // E min(P / 3, 1) for P ~ Poisson(0.6) is 0.2 less 0.0011, which is cut off at 1.
    expect(mean(noisy)).toBeCloseTo(0.2, 2);
    expect(new Set(noisy)).toEqual(new Set([0, 1, 2, 3].map((count) => Math.fround(count / 3))));
  });

  test("impulse noise sets a share of 0.17, half of it to one", () => {
    const gray = { data: new Float32Array(40_000).fill(0.5), height: 200, width: 200 };
    const noisy = apply(gray, "impulse_noise");
    expect(mean(noisy.map((value) => Number(value !== 0.5)))).toBeCloseTo(0.17, 2);
    expect(mean(noisy.map((value) => Number(value === 1)))).toBeCloseTo(0.085, 2);
  });

  test("motion blur smears to the left of a point and keeps its light", () => {
    const point = square(41, 20, 21);
    const blurred = apply(point, "motion_blur");
    expect(blurred.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    const weights = Array.from({ length: 21 }, (_, tap) => Math.exp(-(tap * tap) / 18));
    expect(blurred[20 * 41 + 20]).toBeCloseTo(1 / weights.reduce((a, b) => a + b, 0), 5);
    expect(blurred.every((value, at) => value === 0 || at % 41 <= 20)).toBe(true);
  });

  test("scale makes a square smaller by 0.7 on each side", () => {
    expect(mean(apply(square(28, 4, 24), "scale")) * 28 * 28).toBeCloseTo(400 * 0.49, 0);
  });

  test("translate moves by three pixels on both axes, every way", () => {
    const point = square(9, 4, 5);
    const places = new Set(Array.from({ length: 20 }, (_, seed) => apply(point, "translate", seed).indexOf(1)));
    expect([...places].sort((a, b) => a - b)).toEqual([1 * 9 + 1, 1 * 9 + 7, 7 * 9 + 1, 7 * 9 + 7]);
  });

  test("shear and rotate keep the centre, to both sides", () => {
    for (const name of ["shear", "rotate"]) {
      const results = [0, 1, 2, 3, 4, 5].map((seed) => apply(square(15, 6, 9), name, seed));
      expect(results.every((result) => result[7 * 15 + 7]! > 0.99)).toBe(true);
      expect(new Set(results.map((result) => result.join())).size).toBe(2);
    }
  });

  test("brightness adds a half; colours keep their ratio", () => {
    const rgb = { data: Float32Array.of(0.4, 0.2, 0, 0, 0, 0), height: 1, width: 2, channels: 3 };
    const bright = apply(rgb, "brightness");
    for (const [at, value] of [0.9, 0.45, 0, 0.5, 0.5, 0.5].entries()) expect(bright[at]).toBeCloseTo(value, 6);
  });

  test("stripe inverts the outer quarters", () => {
    const result = apply({ data: new Float32Array(56), height: 2, width: 28 }, "stripe");
    const row = [...Array<number>(7).fill(1), ...Array<number>(14).fill(0), ...Array<number>(7).fill(1)];
    expect([...result]).toEqual([...row, ...row]);
  });

  test("a dotted line has ink in every second pair of columns", () => {
    const result = apply({ data: new Float32Array(side * side), height: side, width: side }, "dotted_line");
    for (let column = 0; column < 27; column++) {
      const ink = Array.from({ length: side }, (_, row) => result[row * side + column]!);
      expect(Math.max(...ink) > 0.5).toBe(column % 4 >= 2);
    }
  });

  test("a zigzag goes up and down and stays between columns 2 and 25", () => {
    const result = apply({ data: new Float32Array(side * side), height: side, width: side }, "zigzag", 3);
    const inked = [...result.keys()].filter((at) => result[at]! > 0).map((at) => at % side);
    expect(Math.min(...inked)).toBeGreaterThanOrEqual(1);
    expect(Math.max(...inked)).toBeLessThanOrEqual(27);
    expect(new Set(inked).size).toBeGreaterThan(20);
  });

  test("canny finds a square's outline and nothing in flat areas", () => {
    const edges = apply(square(28, 8, 20), "canny_edges");
    expect(new Set(edges)).toEqual(new Set([0, 1]));
    expect(edges[14 * 28 + 14]).toBe(0);
    expect(edges[2 * 28 + 2]).toBe(0);
    const row = [...edges.subarray(14 * 28, 15 * 28)];
    expect(row.reduce((a, b) => a + b, 0)).toBeGreaterThanOrEqual(2);
    expect(row.indexOf(1)).toBeGreaterThanOrEqual(7);
    expect(row.indexOf(1)).toBeLessThanOrEqual(8);
    expect(
      apply({ data: new Float32Array(400).fill(0.7), height: 20, width: 20 }, "canny_edges").every((v) => v === 0),
    ).toBe(true);
  });

  test("fog keeps the brightest value as its bound, and an empty image empty", () => {
    const gray = square(28, 8, 20);
    const half = { ...gray, data: gray.data.map((value) => value / 2) };
    const result = apply(half, "fog");
    expect(result.reduce((a, b) => Math.max(a, b), 0)).toBeLessThanOrEqual(0.5);
    expect(mean(result)).toBeGreaterThan(0.05);
    expect(apply({ data: new Float32Array(4), height: 2, width: 2 }, "fog")).toEqual(new Float32Array(4));
  });

  test("spatter paints mud of gray 63/255", () => {
    const white = { data: new Float32Array(64 * 64).fill(1), height: 64, width: 64 };
    const result = apply(white, "spatter");
    expect(result.reduce((a, b) => Math.min(a, b), 1)).toBeLessThan(0.3);
    expect(result.reduce((a, b) => Math.min(a, b), 1)).toBeGreaterThan(63 / 255 - 1e-6);
  });

  test("glass blur keeps the light of a square away from the edge", () => {
    const result = apply(square(28, 10, 18), "glass_blur");
    expect(Math.abs(mean(result) * 28 * 28 - 64)).toBeLessThan(1);
  });
});

describe("parseTransform", () => {
  test("fills in the published severity", () => {
    expect(parseTransform("fog").name).toBe("fog:5");
    expect(parseTransform("impulse_noise").name).toBe("impulse_noise:4");
    expect(parseTransform("invert").name).toBe("invert");
    expect(corruptionNames.length).toBe(15);
  });

  test.each([
    ["blur", /expected one of identity, rotation/],
    ["toString", /expected one of identity/],
    ["invert:1", /transform invert: expected no parameter, got invert:1/],
    ["fog:6", /transform fog: expected a whole number from 1 to 5, got 6/],
    ["fog:2.5", /whole number/],
    ["fog:", /from 1 to 5/],
    ["rotation:200", /a number from -180 to 180, got 200/],
    ["rotation:x", /got x/],
  ])("%s is refused", (text, message) => {
    expect(() => parseTransform(text)).toThrow(message);
  });

  test("a size that does not fit is refused", () => {
    const images = { data: new Uint8Array(10), height: 3, width: 3 };
    expect(() => transformImages(images, parseTransform("invert"))).toThrow(/multiple of 3 x 3 x 1 values, got 10/);
  });
});
