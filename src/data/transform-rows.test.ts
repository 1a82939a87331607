// `--transform` between reading rows and normalizing them: layouts, the stream of each row, and data that has no images.
import { expect, test } from "vitest";
import { exampleEncoder } from "./examples.ts";
import type { Column, Row } from "./table.ts";
import { parseTransform, transformImages } from "./transforms/transforms.ts";

const columns: readonly Column[] = [{ name: "x" }, { name: "label" }];

/** The values of a batch of rows 3, 4, … under a transform. */
async function batch(rows: readonly Row[], dims: readonly number[], name: string): Promise<number[]> {
  const encoder = exampleEncoder(columns, rows[0]!, {
    inputs: [{ name: "x", type: "float32", dims: ["batch", ...dims] }],
    transform: { transform: parseTransform(name), seed: 7 },
    tableLabels: null,
    prepare: null,
  });
  const numbers = rows.map((_, at) => at + 3);
  const [made] = await encoder.begin(rows.length)(rows, numbers, "");
  return Array.from((await made!.make()).inputs.x!.data as Float32Array);
}

test("bytes are changed, then scaled", async () => {
  const values = await batch([[Uint8Array.of(0, 51, 102, 255), 1]], [2, 2], "invert");
  expect(values.map((value) => Math.round(255 * value))).toEqual([255, 204, 153, 0]);
  expect(await batch([[Uint8Array.of(0, 51, 102, 255), 1]], [4], "invert")).toEqual(values);
});

test("a row draws from the stream of its number", async () => {
  const image = Uint8Array.from({ length: 144 }, (_, at) => (at * 7) % 256);
  const values = await batch(
    [
      [image, 0],
      [image, 1],
    ],
    [1, 12, 12],
    "impulse_noise",
  );
  const second = transformImages({ data: image, height: 12, width: 12 }, parseTransform("impulse_noise"), {
    seed: 7,
    first: 4,
  });
  expect(values.slice(144)).toEqual(Array.from(second, (byte) => Math.fround(byte / 255)));
  expect(values.slice(0, 144)).not.toEqual(values.slice(144));
});

test("colours are changed alike whether channels come first or last", async () => {
  const planar = Float32Array.from({ length: 27 }, (_, at) => at / 26);
  const last = Float32Array.from({ length: 27 }, (_, at) => planar[(at % 3) * 9 + Math.floor(at / 3)]!);
  const first = await batch([[planar, 0]], [3, 3, 3], "identity");
  expect(first).toEqual(Array.from(planar));
  const one = transformImages({ data: last, height: 3, width: 3, channels: 3 }, parseTransform("brightness"));
  const bright = await batch([[planar, 0]], [3, 3, 3], "brightness");
  expect(bright).toEqual(Array.from({ length: 27 }, (_, at) => one[(at % 9) * 3 + Math.floor(at / 9)]!));
});

test("rows without images are refused", () => {
  const encode = () =>
    exampleEncoder([{ name: "a" }, { name: "label" }], [0.5, 1], {
      inputs: [{ name: "a", type: "float32", dims: ["batch", 1] }],
      transform: { transform: parseTransform("invert") },
      tableLabels: null,
      prepare: null,
    });
  expect(encode).toThrow(/transform: expected one input of images .*, got 0/);
});
