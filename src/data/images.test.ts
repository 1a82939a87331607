import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDataset } from "./dataset.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-images-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A PNG of 2 x 1 pixels. */
async function image(path: string, left: readonly number[], right: readonly number[]): Promise<void> {
  const raw = { width: 2, height: 1, channels: 3 } as const;
  await mkdir(join(folder, path, ".."), { recursive: true });
  await sharp(Uint8Array.from([...left, ...right]), { raw })
    .png()
    .toFile(join(folder, path));
}

describe("folders of images", () => {
  it("are classes by name, in the model's layout, normalized by channel", async () => {
    await image("good/dog/a.png", [255, 0, 51], [0, 255, 102]);
    await image("good/cat/b.png", [0, 0, 0], [255, 255, 255]);
    const data = await openDataset(join(folder, "good"));
    expect([data.labels, data.length, data.format]).toEqual([["cat", "dog"], 2, "images"]);
    const options = { shuffle: false, normalization: { mean: [0, 0.5, 0], std: [1, 0.5, 1] } };
    const read = async (dims: readonly (string | number)[]) => {
      const source = await data.source({ ...options, inputs: [{ name: "pixels", type: "float32", dims }] });
      for await (const { batch } of source.batches({ epoch: 0, index: 0 })) {
        expect([...batch.labels.data]).toEqual([0n, 1n]);
        return [...batch.inputs.pixels!.data].slice(6).map((value) => Math.round(Number(value) * 100) / 100);
      }
      return [];
    };
    expect(await read(["B", 3, 1, 2])).toEqual([1, 0, -1, 1, 0.2, 0.4]);
    expect(await read(["B", 1, 2, 3])).toEqual([1, -1, 0.2, 0, 1, 0.4]);
    await expect(read(["B", 3, "H", "W"])).rejects.toThrow("give the input fixed sizes");
    const cats = await data.filter("label=cat");
    expect(cats.length).toBe(1);
  });

  it("name every file that is no image, or leave it out", async () => {
    await image("bad/a/a.png", [1, 2, 3], [4, 5, 6]);
    await writeFile(join(folder, "bad/a/b.png"), "no image");
    await writeFile(join(folder, "bad/a/c.jpg"), Uint8Array.of(0xff, 0xd8, 0xff));
    const inputs = [{ name: "x", type: "float32", dims: ["B", 3, 1, 2] }] as const;
    const strict = await openDataset(join(folder, "bad"));
    await expect(strict.source({ inputs })).rejects.toMatchObject({
      faults: [
        expect.stringContaining(`${join(folder, "bad/a/b.png")}: is no image that can be read`),
        expect.stringContaining(`${join(folder, "bad/a/c.jpg")}: is no image that can be read`),
      ],
    });
    const lenient = await (await openDataset(join(folder, "bad"), { onBadRow: "skip" })).source({ inputs });
    expect([lenient.examples, lenient.skipped.count]).toEqual([1, 2]);
  });

  it("may have no classes, for predictions, and so may single files", async () => {
    await image("new/b.png", [1, 2, 3], [4, 5, 6]);
    await image("new/a.png", [6, 5, 4], [3, 2, 1]);
    const inputs = [{ name: "x", type: "float32", dims: ["B", 3, 1, 2] }] as const;
    for (const [paths, files] of [
      [["new"], ["new/a.png", "new/b.png"]],
      [
        ["new/b.png", "new/a.png"],
        ["new/b.png", "new/a.png"],
      ],
    ] as const) {
      const data = await openDataset(paths.map((path) => join(folder, path)));
      const found = await Promise.all([0, 1].map((row) => data.where(row)));
      expect([data.format, data.labels, found]).toEqual(["images", null, files.map((file) => join(folder, file))]);
      await expect(data.source({ inputs })).rejects.toThrow("the images have no classes");
      expect((await data.source({ inputs, labels: { kind: "none" } })).examples).toBe(2);
      await data.close();
    }
  });

  it("without classes, or with an empty one, are refused", async () => {
    await mkdir(join(folder, "empty/none"), { recursive: true });
    await expect(openDataset(join(folder, "empty"))).rejects.toThrow("expected images of the class none, got none");
    await expect(openDataset(join(folder, "empty/none"))).rejects.toThrow(
      "expected a subfolder of images for each class",
    );
    await expect(openDataset(join(folder, "missing"))).rejects.toMatchObject({ code: "file" });
  });
});
