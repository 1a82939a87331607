import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { gatherImages, normalizedBytes, selectByLabel } from "./preprocess.ts";
import { samplePixels } from "./testing/samples.ts";

describe("normalizedBytes", () => {
  // torch 2.13: torch.arange(256).to(float32).div(255).sub_(torch.tensor(0.1307)).div_(torch.tensor(0.3081))
  it("are PyTorch's float32 values, bit for bit", () => {
    const expected: [number, number][] = [
      [0, -0.4242129623889923],
      [1, -0.4114847183227539],
      [2, -0.3987565040588379],
      [33, -0.004181224387139082],
      [64, 0.39039403200149536],
      [127, 1.192272663116455],
      [128, 1.2050011157989502],
      [200, 2.121433973312378],
      [254, 2.808758497238159],
      [255, 2.821486711502075],
    ];
    for (const [byte, value] of expected) expect(normalizedBytes[byte]).toBe(value);
    // The hash of all 256 as torch wrote them (little-endian).
    const all = new Uint8Array(new Float32Array(normalizedBytes).buffer);
    expect(createHash("sha256").update(all).digest("hex")).toBe(
      "0103dbab6b16bfcaea0aa75d7377b4b22bb6792081600921bee4a17ff9c4d33e",
    );
  });
});

describe("gatherImages", () => {
  const images = samplePixels(4, 3); // [4 * 784]

  it.each([
    ["an Int32Array", Int32Array.of(0, 3, 1, 1, 2)],
    ["an array", [0, 3, 1, 1, 2]],
  ])("fills a batch by %s of indices", (_, indices) => {
    const batch = new Float32Array(4 * 784).fill(42);
    gatherImages(images, indices, 1, 3, batch);
    for (const [row, image] of [3, 1, 1].entries()) {
      for (let pixel = 0; pixel < 784; pixel++) {
        const byte = (3 + 31 * image + pixel) % 256;
        expect(batch[row * 784 + pixel]).toBe(normalizedBytes[byte]);
      }
    }
    expect(batch.subarray(3 * 784).every((value) => value === 42)).toBe(true);
  });

  it.each([
    ["past the indices", [0, 1], 1, 2, 2],
    ["before the indices", [0, 1], -1, 1, 2],
    ["into too small a batch", [0, 1], 0, 2, 1],
    ["of an image that is not there", [4], 0, 1, 1],
    ["of a negative image", [-1], 0, 1, 1],
    ["of no number", [Number.NaN], 0, 1, 1],
  ])("refuses a batch %s", (_, indices, start, count, rows) => {
    expect(() => gatherImages(images, indices, start, count, new Float32Array(rows * 784))).toThrow("internal:");
  });
});

describe("selectByLabel", () => {
  it("gives the indices in order", () => {
    const labels = Uint8Array.of(2, 0, 2, 9, 2);
    expect(selectByLabel(labels, 2)).toEqual(Int32Array.of(0, 2, 4));
    expect(selectByLabel(labels, 5)).toEqual(new Int32Array(0));
  });
});
