// What a user can get wrong with `lowrank study`: each time clear words on stderr, nothing on stdout, the exit code of
// its kind (1 for files and data, 2 for options), and not one file or folder more than before.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { writeSmallMnist } from "./support/digits.ts";
import { filesBelow, temporaryFolder } from "./support/folders.ts";

const work = temporaryFolder();
const trainImages = "train-images-idx3-ubyte.gz";
const testLabels = "t10k-labels-idx1-ubyte.gz";

/** A copy of the digits with some files changed. */
function damagedCopy(name: string, changes: Record<string, (bytes: Buffer) => Buffer | null>): void {
  mkdirSync(join(work, name));
  for (const file of filesBelow(join(work, "digits"))) {
    const bytes = readFileSync(join(work, "digits", file));
    const changed = changes[file]?.(bytes) ?? (file in changes ? null : bytes);
    if (changed !== null) writeFileSync(join(work, name, file), changed);
  }
}

beforeAll(() => {
  writeSmallMnist(join(work, "digits"), { train: 12, test: 12 });
  damagedCopy("flipped", {
    [trainImages]: (bytes) => {
      bytes[bytes.length >> 1]! ^= 0x40;
      return bytes;
    },
  });
  damagedCopy("short", { [trainImages]: (bytes) => gzipSync(gunzipSync(bytes).subarray(0, -5)) });
  damagedCopy("missing", { [trainImages]: () => null, [testLabels]: () => null });
  damagedCopy("bad-label", {
    [testLabels]: (bytes) => {
      const unpacked = gunzipSync(bytes);
      unpacked[8] = 11;
      return gzipSync(unpacked);
    },
  });
  writeFileSync(join(work, "file"), "of someone else's\n");
  mkdirSync(join(work, "foreign"));
  writeFileSync(join(work, "foreign", "thesis.txt"), "of someone else's\n");
});

function everything(): string[] {
  return (readdirSync(work, { recursive: true }) as string[]).sort();
}

/** Runs into an error, and checks what all errors have in common. */
async function failing(...args: string[]): Promise<Ended> {
  const before = everything();
  const ended = await lowrank(args, { cwd: work });
  expect(ended.stdout).toBe("");
  expect(ended.stderr).toMatch(/^lowrank: .+\n( {2}- .+\n)*$/);
  expect(ended.stderr).not.toMatch(/\n\s+at |Error:|internal:/);
  expect(everything()).toEqual(before);
  return ended;
}

describe("options", () => {
  const cases: [args: string[], stderr: string][] = [
    [["--digit", "12"], "lowrank: study: --digit: expected a whole number from 0 to 9, got 12\n"],
    [["--rank", "0"], "lowrank: study: --rank: expected a whole number from 1 to 1000, got 0\n"],
    [["--rank", "1.5"], "lowrank: study: --rank: expected a whole number from 1 to 1000, got 1.5\n"],
    [["--limit", "3"], "lowrank: study: --limit: expected a whole number from 100 to 1000000, got 3\n"],
    [
      ["--lr", "-1", "--batch", "0", "--replay", "1"],
      "lowrank: study: 3 faults\n" +
        "  - --lr: expected a number above 0, got -1\n" +
        "  - --batch: expected a whole number from 1 to 10000, got 0\n" +
        "  - --replay: expected a share from 0 up to (not including) 1, got 1\n",
    ],
  ];
  for (const [args, stderr] of cases) {
    it(`refuses ${args.join(" ")}, saying what was expected`, async () => {
      expect(await failing("study", "--data", "digits", "--out", "run", ...args)).toMatchObject({ code: 2, stderr });
    });
  }

  const parsed: [args: string[], words: RegExp][] = [
    [["--lr", "nan"], /--lr.*nan.*expected a number/],
    [["--steps", ""], /--steps.*expected a number/],
    [["--head", "x"], /--head.*'x'.*relu, linear, both/],
    [["--device", "abacus"], /--device.*'abacus'.*cpu, wasm, webgpu, cuda/],
    [["--rnak", "3"], /unknown option '--rnak' \(Did you mean --rank\?\)/],
    [["--rank"], /--rank.*argument missing/],
    [["mnist"], /too many arguments/],
  ];
  for (const [args, words] of parsed) {
    it(`refuses ${args.join(" ")}`, async () => {
      const { code, stderr } = await failing("study", "--data", "digits", "--out", "run", ...args);
      expect([code, stderr.split("\n").length]).toEqual([2, 2]);
      expect(stderr).toMatch(words);
    });
  }

  it("refuses an unknown verb, with the nearest one", async () => {
    const { code, stderr } = await failing("stduy");
    expect([code, stderr]).toEqual([2, expect.stringMatching(/unknown command 'stduy' \(Did you mean study\?\)/)]);
  });
});

describe("data", () => {
  it("refuses a folder that is not there", async () => {
    expect(await failing("study", "--data", "nowhere", "--out", "run")).toMatchObject({
      code: 1,
      stderr: `lowrank: ${join(work, "nowhere")}: expected a folder with MNIST's four files, found none; name another\n`,
    });
  });

  it("lists every file that is missing", async () => {
    const { code, stderr } = await failing("study", "--data", "missing", "--out", "run");
    expect([code, stderr.split("\n")]).toEqual([
      1,
      [
        expect.stringMatching(/^lowrank: .*missing: 2 faults$/),
        expect.stringMatching(/^ {2}- t10k-labels-idx1-ubyte: not found/),
        expect.stringMatching(/^ {2}- train-images-idx3-ubyte: not found/),
        "",
      ],
    ]);
  });

  for (const [folder, file] of [
    ["flipped", trainImages],
    ["short", "train-images-idx3-ubyte"],
    ["bad-label", "t10k-labels-idx1-ubyte"],
  ] as const) {
    it(`refuses damaged data (${folder}) in one line that names the file`, async () => {
      const { code, stderr } = await failing("study", "--data", folder, "--out", "run");
      expect([code, stderr.split("\n").length]).toEqual([1, 2]);
      expect(stderr).toContain(file);
    });
  }
});

describe("the run folder", () => {
  const cases: [out: string, stderr: string][] = [
    ["file", "lowrank: file: expected a folder, got a file; choose another name\n"],
    ["file/run", "lowrank: file/run: cannot write: a part of the path is a file, not a folder; check the path\n"],
    [
      "foreign",
      "lowrank: foreign: expected a new or empty folder or that of an earlier run, got a folder with other files " +
        "(thesis.txt); choose another folder\n",
    ],
  ];
  for (const [out, stderr] of cases) {
    it(`refuses --out ${out} before anything is trained`, async () => {
      expect(await failing("study", "--data", "digits", "--out", out)).toMatchObject({ code: 1, stderr });
    });
  }
});
