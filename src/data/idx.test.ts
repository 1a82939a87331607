import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { mnistImages, mnistLabels, mnistSet, parseIdx } from "./idx.ts";
import { failure, idxFile, sampleLabels, samplePixels } from "./testing/samples.ts";

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

describe("parseIdx", () => {
  it("reads unsigned bytes as a view of the file, wherever it lies in its buffer", () => {
    const file = bytes(99, 99, 99, ...idxFile(8, [2, 3], [1, 2, 3, 4, 5, 255])).subarray(3);
    const array = parseIdx(file, "f");
    expect(array).toEqual({ type: "uint8", dims: [2, 3], data: bytes(1, 2, 3, 4, 5, 255) });
    expect(array.data.buffer).toBe(file.buffer);
  });

  it.each([
    [0x09, "int8", [0xff, 0x7f], Int8Array.of(-1, 127)],
    [0x0b, "int16", [0xff, 0xfe, 0x01, 0x02], Int16Array.of(-2, 258)],
    [0x0c, "int32", [0x80, 0, 0, 0, 0, 0, 1, 0], Int32Array.of(-(2 ** 31), 256)],
    [0x0d, "float32", [0x3f, 0x80, 0, 0, 0xc0, 0x20, 0, 0], Float32Array.of(1, -2.5)],
    [0x0e, "float64", [0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0, 4, 0, 0, 0, 0, 0, 0], Float64Array.of(1, -2.5)],
  ])("reads type %i as big-endian %s", (code, type, values, data) => {
    expect(parseIdx(idxFile(code, [2], values), "f")).toEqual({ type, dims: [2], data });
  });

  it("reads an empty dimension", () => {
    expect(parseIdx(idxFile(8, [0, 28, 28], []), "f")).toEqual({ type: "uint8", dims: [0, 28, 28], data: bytes() });
  });

  const max = 2 ** 32 - 1;
  it.each<[string, Uint8Array, string]>([
    ["nothing", bytes(), "at least 4 bytes, got 0"],
    ["half a magic number", bytes(0, 0, 8), "at least 4 bytes, got 3"],
    ["a bad magic number", bytes(1, 0, 8, 1, 0, 0, 0, 0), "bad magic: expected an IDX file (0000....), got 01000801"],
    ["a gzip archive", bytes(0x1f, 0x8b, 8, 0), "bad magic: expected an IDX file (0000....), got 1f8b0800"],
    ["a little-endian header", bytes(1, 8, 0, 0), "bad magic"],
    ["an unknown type", idxFile(0x0a, [1], [0]), "bad type: expected 08, 09, 0b, 0c, 0d or 0e, got 0a"],
    ["no dimensions", bytes(0, 0, 8, 0), "bad dimension count: expected at least 1, got 0"],
    ["dimensions past the end", bytes(0, 0, 8, 2, 0, 0, 0, 1), "bad dimension count: 2 do not fit a file of 8 bytes"],
    ["255 dimensions past the end", bytes(0, 0, 8, 255, 0, 0, 0, 1), "bad dimension count: 255 do not fit"],
    ["dimensions that overflow", idxFile(8, [max, max, max], []), "overflow"],
    ["dimensions that overflow to infinity", idxFile(8, Array(60).fill(max), []), "overflow"],
    ["an overflow by the element size", idxFile(0x0e, [2 ** 25, 2 ** 26], []), "overflow"],
    ["an overflow behind a zero", idxFile(8, [max, max, max, 0], []), "overflow"],
    ["an overflow after a zero", idxFile(8, [0, max, max, max], []), "overflow"],
    ["short data", idxFile(8, [2, 2], [1, 2, 3]), "short data: expected 4 bytes for [2,2], got 3"],
    ["short data of 4 GB", idxFile(8, [max], []), `short data: expected ${max} bytes for [${max}], got 0`],
    ["half an element", idxFile(0x0b, [2], [1, 2, 3]), "short data: expected 4 bytes for [2], got 3"],
    ["trailing bytes", idxFile(8, [2], [1, 2, 3]), "trailing bytes: expected 2 bytes for [2], got 3"],
    ["trailing bytes after nothing", idxFile(8, [0], [1]), "trailing bytes: expected 0 bytes for [0], got 1"],
  ])("refuses %s", async (_, file, fault) => {
    const error = await failure(() => parseIdx(file, "evil-file"));
    expect(error).toBeInstanceOf(LowrankError);
    expect(error).toMatchObject({ code: "data", message: expect.stringContaining(fault) });
    expect(error.message).toMatch(/^evil-file: /);
  });

  it("reports all faults of the header at once", async () => {
    expect((await failure(() => parseIdx(bytes(0, 0, 7, 0), "f"))).faults).toEqual([
      "bad type: expected 08, 09, 0b, 0c, 0d or 0e, got 07",
      "bad dimension count: expected at least 1, got 0",
    ]);
  });

  it("throws nothing but its own error, whatever the bytes", () => {
    const header = fc.tuple(fc.constantFrom(0, 0, 1), fc.constant(0), fc.constantFrom(8, 11, 14, 3), fc.nat(4));
    fc.assert(
      fc.property(header, fc.uint8Array({ maxLength: 40 }), (start, rest) => {
        try {
          parseIdx(bytes(...start, ...rest), "f");
        } catch (error) {
          expect(error).toBeInstanceOf(LowrankError);
        }
      }),
    );
  });
});

describe("mnistImages and mnistLabels", () => {
  it("give pixels and labels", () => {
    expect(mnistImages(idxFile(8, [2, 28, 28], samplePixels(2, 5)), "f")).toEqual(samplePixels(2, 5));
    expect(mnistLabels(idxFile(8, [11], sampleLabels(11)), "f")).toEqual(bytes(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0));
  });

  it.each([
    ["27 x 28", idxFile(8, [1, 27, 28], new Uint8Array(756)), "got uint8 [1,27,28]"],
    ["28 x 29", idxFile(8, [1, 28, 29], new Uint8Array(812)), "got uint8 [1,28,29]"],
    ["flat", idxFile(8, [1, 784], new Uint8Array(784)), "got uint8 [1,784]"],
    ["signed", idxFile(9, [1, 28, 28], new Uint8Array(784)), "got int8 [1,28,28]"],
    ["no", idxFile(8, [0, 28, 28], []), "got uint8 [0,28,28]"],
    ["labels for", idxFile(8, [1], [1]), "got uint8 [1]"],
  ])("refuse %s images", async (_, file, fault) => {
    expect(await failure(() => mnistImages(file, "img"))).toMatchObject({
      code: "data",
      message: `img: expected uint8 images [count, 28, 28], ${fault}`,
    });
  });

  it.each([
    ["over 9", idxFile(8, [4], [9, 10, 0, 255]), "expected labels 0 to 9, got 10 at index 1 (2 labels are over 9)"],
    ["of two dimensions", idxFile(8, [1, 1], [1]), "expected uint8 labels [count], got uint8 [1,1]"],
    ["of another type", idxFile(9, [1], [1]), "expected uint8 labels [count], got int8 [1]"],
    ["in an empty file", idxFile(8, [0], []), "expected uint8 labels [count], got uint8 [0]"],
  ])("refuse labels %s", async (_, file, fault) => {
    expect(await failure(() => mnistLabels(file, "lab"))).toMatchObject({ code: "data", message: `lab: ${fault}` });
  });
});

describe("mnistSet", () => {
  const images = { name: "img", bytes: idxFile(8, [3, 28, 28], samplePixels(3, 1)) };

  it("pairs images with labels", () => {
    const set = mnistSet(images, { name: "lab", bytes: idxFile(8, [3], [7, 0, 9]) });
    expect(set).toEqual({ images: samplePixels(3, 1), labels: bytes(7, 0, 9), count: 3 });
  });

  it("refuses counts that differ", async () => {
    const error = await failure(() => mnistSet(images, { name: "lab", bytes: idxFile(8, [2], [7, 0]) }));
    expect(error.code).toBe("data");
    expect(error.message).toBe("img: holds 3 images, but lab holds 2 labels; the two files do not belong together");
  });

  it("reports the faults of both files", async () => {
    const run = (): unknown => mnistSet({ name: "img", bytes: bytes(1) }, { name: "lab", bytes: bytes(0, 0, 8, 0) });
    expect((await failure(run)).faults).toEqual([
      "img: expected an IDX header of at least 4 bytes, got 1",
      "lab: bad dimension count: expected at least 1, got 0",
    ]);
  });
});
