import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors } from "../adapter/safetensors.ts";
import { tensor } from "../tensor.ts";
import { openDataset } from "./dataset.ts";
import type { RowSource } from "./source.ts";
import { idxFile } from "./testing/samples.ts";
import { parseTransform, transformImages } from "./transforms/transforms.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-domain-"));
});
afterAll(() => rm(folder, { recursive: true }));

const [count, side] = [6, 8];
const pixels = Uint8Array.from({ length: count * side * side }, (_, at) => (37 * at) % 256);
const noise = parseTransform("shot_noise:3");

async function digits(): Promise<string> {
  const images = join(folder, "some-images-idx3-ubyte");
  await writeFile(images, idxFile(8, [count, side, side], pixels));
  await writeFile(join(folder, "some-labels-idx1-ubyte"), idxFile(8, [count], [0, 1, 2, 0, 1, 2]));
  return images;
}

/** The bytes of each row in two passes, by the row's number. */
async function imagesOf(source: RowSource): Promise<Map<number, number[]>[]> {
  const passes = [new Map<number, number[]>(), new Map<number, number[]>()];
  let epoch = 0;
  for await (const { batch, rows, next } of source.batches({ epoch: 0, index: 0 })) {
    const { data, dims } = Object.values(batch.inputs)[0]!;
    const width = data.length / dims[0]!;
    for (const [at, row] of rows.entries()) {
      const own = Array.from({ length: width }, (_, index) => Math.round(255 * Number(data[at * width + index])));
      passes[epoch]!.set(row, own);
    }
    epoch = next.epoch;
    if (epoch === 2) return passes;
  }
  throw new Error("two passes were expected");
}

const flat = [{ name: "x", type: "float32", dims: ["B", side * side] }] as const;

describe("a transform of a data set's images", () => {
  it("gives each row the image that the whole set would have there, in any order and every pass", async () => {
    const data = await openDataset(await digits());
    const wanted = transformImages({ data: pixels, height: side, width: side }, noise, { seed: 5 });
    const source = await data.source({ inputs: flat, batchSize: 4, seed: 5, transform: noise });
    const [first, second] = await imagesOf(source);
    for (let row = 0; row < count; row++) {
      const image = [...wanted.subarray(row * side * side, (row + 1) * side * side)];
      expect(first!.get(row)).toEqual(image);
      expect(second!.get(row)).toEqual(image);
    }
    const twos = await data.filter("label=2");
    const [some] = await imagesOf(await twos.source({ inputs: flat, seed: 5, transform: noise, shuffle: false }));
    expect([...some!.keys()]).toEqual([2, 5]);
    expect(some!.get(5)).toEqual(first!.get(5));
    await data.close();
  });

  it("takes planes and interleaved colours for the same picture", async () => {
    const raw = { width: side, height: side, channels: 3 } as const;
    await mkdir(join(folder, "colours", "one"), { recursive: true });
    const colours = Uint8Array.from({ length: 3 * side * side }, (_, at) => (91 * at) % 256);
    await sharp(colours, { raw })
      .png()
      .toFile(join(folder, "colours", "one", "a.png"));
    const data = await openDataset(join(folder, "colours"));
    const of = async (dims: readonly (string | number)[]): Promise<number[]> => {
      const inputs = [{ name: "x", type: "float32", dims }] as const;
      return (await imagesOf(await data.source({ inputs, seed: 1, transform: noise })))[0]!.get(0)!;
    };
    const wanted = [...transformImages({ data: colours, height: side, width: side, channels: 3 }, noise, { seed: 1 })];
    expect(await of(["B", side, side, 3])).toEqual(wanted);
    const planes = [0, 1, 2].flatMap((channel) => wanted.filter((_, at) => at % 3 === channel));
    expect(await of(["B", 3, side, side])).toEqual(planes);
    await data.close();
  });

  it("reads tensors of bytes", async () => {
    const path = join(folder, "images.safetensors");
    const tensors = {
      x: tensor("uint8", [count, side, side, 1], pixels),
      label: tensor("int64", [count], new BigInt64Array(count)),
    };
    await writeFile(path, writeSafetensors(new Map(Object.entries(tensors))));
    const data = await openDataset(path);
    const inputs = [{ name: "x", type: "float32", dims: ["B", 1, side, side] }] as const;
    const [first] = await imagesOf(await data.source({ inputs, transform: parseTransform("invert") }));
    expect(first!.get(1)).toEqual([...pixels.subarray(64, 128)].map((byte) => 255 - byte));
    await data.close();
  });

  it("is refused where there are no images", async () => {
    const csv = join(folder, "points.csv");
    await writeFile(csv, "x0,x1,label\n1,2,0\n3,4,1\n");
    const data = await openDataset(csv);
    const inputs = [{ name: "x", type: "float32", dims: ["B", 2] }] as const;
    await expect(data.source({ inputs, transform: noise })).rejects.toMatchObject({
      code: "config",
      message: expect.stringMatching(/^transform shot_noise:3: expected images .*, got x0, x1, label; leave the/),
    });
    await data.close();
  });
});
