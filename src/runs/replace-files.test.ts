// The moments at which the system refuses: whatever call fails, the files are all old or all new, and the next write goes through.
// (test/kill.test.ts has the moments at which the process is killed.)
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { readFilesTogether, writeFilesAtomic } from "./files.ts";

/** Calls until one fails, and with what; negative: none does. */
const failing = vi.hoisted(() => ({ left: -1, code: "ENOSPC", only: "" }));

vi.mock("node:fs", async (importOriginal) => {
  const fs = await importOriginal<typeof import("node:fs")>();
  const wrap = <A extends unknown[], R>(name: string, call: (...args: A) => R) => {
    return (...args: A): R => {
      if ((failing.only === "" || failing.only === name) && failing.left-- === 0) {
        throw Object.assign(new Error(`${failing.code}: refused`), { code: failing.code, syscall: name });
      }
      return call(...args);
    };
  };
  return {
    ...fs,
    renameSync: wrap("rename", fs.renameSync),
    symlinkSync: wrap("symlink", fs.symlinkSync),
    linkSync: wrap("link", fs.linkSync),
    mkdirSync: wrap("mkdir", fs.mkdirSync),
  };
});

let folder = "";
beforeEach(() => {
  failing.left = -1;
  failing.only = "";
  folder = mkdtempSync(join(tmpdir(), "lowrank-replace-"));
});
afterEach(() => {
  failing.left = -1;
  rmSync(folder, { recursive: true, force: true });
});

const pair = (text: string): Map<string, string> =>
  new Map([
    ["a", text],
    ["b", text],
  ]);
const read = (path: string): string[] => ["a", "b"].map((name) => readFileSync(join(path, name), "utf8"));

describe("writeFilesAtomic", () => {
  it("replaces files and leaves others", async () => {
    await writeFilesAtomic(join(folder, "x"), pair("old"));
    writeFileSync(join(folder, "x", "README.md"), "mine");
    await writeFilesAtomic(join(folder, "x"), pair("new"));
    expect(read(join(folder, "x"))).toEqual(["new", "new"]);
    expect(readdirSync(join(folder, "x")).sort()).toEqual(["README.md", "a", "b"]);
    expect(["a", "b"].some((name) => lstatSync(join(folder, "x", name)).isSymbolicLink())).toBe(false);
    expect(readdirSync(folder)).toEqual(["x"]);
  });

  it("replaces links as they are in Hugging Face's cache, not what they lead to", async () => {
    mkdirSync(join(folder, "blobs"));
    mkdirSync(join(folder, "snapshot"));
    writeFileSync(join(folder, "blobs", "1"), "blob");
    symlinkSync("../blobs/1", join(folder, "snapshot", "a"));
    symlinkSync("nowhere", join(folder, "snapshot", "b"));
    await writeFilesAtomic(join(folder, "snapshot"), pair("new"));
    expect(read(join(folder, "snapshot"))).toEqual(["new", "new"]);
    expect(readFileSync(join(folder, "blobs", "1"), "utf8")).toBe("blob");
  });

  it("refuses a folder where a file should be, before anything changes", async () => {
    mkdirSync(join(folder, "x", "b"), { recursive: true });
    writeFileSync(join(folder, "x", "a"), "old");
    await expect(writeFilesAtomic(join(folder, "x"), pair("new"))).rejects.toThrow(
      "x/b: cannot write: expected a file, got a folder or device; move it",
    );
    expect(readdirSync(join(folder, "x")).sort()).toEqual(["a", "b"]);
    expect(readFileSync(join(folder, "x", "a"), "utf8")).toBe("old");
  });

  it.each(["two files", "one of the two"])(
    "leaves all old or all new ones when a call fails, over %s",
    async (before) => {
      const path = join(folder, "x");
      const outcomes: string[] = [];
      for (let calls = 0; ; calls++) {
        rmSync(path, { recursive: true, force: true });
        mkdirSync(path);
        writeFileSync(join(path, "a"), "old");
        if (before === "two files") writeFileSync(join(path, "b"), "old");
        failing.left = calls;
        const error = await writeFilesAtomic(path, pair("new")).then(
          () => null,
          (e: unknown) => e,
        );
        const wasHit = failing.left < 0;
        failing.left = -1;
        const text = readFileSync(join(path, "a"), "utf8");
        if (existsSync(join(path, "b"))) expect(readFileSync(join(path, "b"), "utf8")).toBe(text);
        else expect([text, before]).toEqual(["old", "one of the two"]);
        outcomes.push(error === null ? "new" : "old");
        expect(text).toBe(outcomes.at(-1));
        // A failure leaves nothing behind; the tidying up of a success may.
        if (error !== null) expect(readdirSync(path).sort()).toEqual(before === "two files" ? ["a", "b"] : ["a"]);
        await writeFilesAtomic(path, pair("next"));
        expect(read(path)).toEqual(["next", "next"]);
        expect(readdirSync(path).sort()).toEqual(["a", "b"]);
        if (!wasHit) break;
      }
      expect(new Set(outcomes)).toEqual(new Set(["old", "new"]));
    },
  );

  it("copies where there are no hard links, renames where there are no symbolic ones", async () => {
    for (const [only, code] of [
      ["link", "EPERM"],
      ["symlink", "EPERM"],
    ] as const) {
      await writeFilesAtomic(join(folder, "x"), pair("old"));
      Object.assign(failing, { only, code, left: 0 });
      await writeFilesAtomic(join(folder, "x"), pair(only));
      expect(failing.left).toBe(only === "link" ? -2 : -1);
      expect(read(join(folder, "x"))).toEqual([only, only]);
      expect(readdirSync(join(folder, "x")).sort()).toEqual(["a", "b"]);
    }
  });
});

describe("readFilesTogether", () => {
  it("gives the files that are there", async () => {
    writeFileSync(join(folder, "a"), "1");
    const files = await readFilesTogether(folder, ["a", "b"]);
    expect([...files].map(([name, bytes]) => [name, new TextDecoder().decode(bytes)])).toEqual([["a", "1"]]);
    expect((await readFilesTogether(join(folder, "absent"), ["a"])).size).toBe(0);
  });
});
