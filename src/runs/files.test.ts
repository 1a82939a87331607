import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import {
  type Chunk,
  type FileContent,
  isPlainName,
  readFileChecked,
  writeFileAtomic,
  writeFolderAtomic,
} from "./files.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-files-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const isRoot = process.getuid?.() === 0; // root may write anywhere: permissions cannot be tested as root
const isPosix = process.platform !== "win32";

function failsMidway(): AsyncIterable<Chunk> {
  return (async function* () {
    yield "half of ";
    throw new Error("the source dried up");
  })();
}

async function message(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(LowrankError);
  expect((error as LowrankError).code).toBe("file");
  return (error as LowrankError).message.replaceAll(folder, "DIR");
}

describe("writeFileAtomic", () => {
  it("writes text, bytes and chunks of both", async () => {
    await writeFileAtomic(join(folder, "text"), "größer\n");
    await writeFileAtomic(join(folder, "bytes"), new Uint8Array([0, 255, 7]));
    await writeFileAtomic(join(folder, "chunks"), [new Uint8Array([97]), "b", "", "c"]);
    await writeFileAtomic(
      join(folder, "stream"),
      (async function* () {
        yield "x".repeat(700_000); // more than one write
        yield "y";
      })(),
    );
    await writeFileAtomic(join(folder, "empty"), "");
    expect(readFileSync(join(folder, "text"), "utf8")).toBe("größer\n");
    expect([...readFileSync(join(folder, "bytes"))]).toEqual([0, 255, 7]);
    expect(readFileSync(join(folder, "chunks"), "utf8")).toBe("abc");
    expect(readFileSync(join(folder, "stream"), "utf8")).toBe(`${"x".repeat(700_000)}y`);
    expect(readFileSync(join(folder, "empty"), "utf8")).toBe("");
    expect(readdirSync(folder).sort()).toEqual(["bytes", "chunks", "empty", "stream", "text"]);
  });

  it("leaves the old file and no temporary when the source fails in the middle", async () => {
    const path = join(folder, "model.onnx");
    writeFileSync(path, "old");
    await expect(writeFileAtomic(path, failsMidway())).rejects.toThrow(/^the source dried up$/);
    expect(readFileSync(path, "utf8")).toBe("old");
    expect(readdirSync(folder)).toEqual(["model.onnx"]);
  });

  it("shows the old file until the new one is whole", async () => {
    const path = join(folder, "model.onnx");
    writeFileSync(path, "old");
    const seen: string[] = [];
    await writeFileAtomic(
      path,
      (async function* () {
        yield "new ";
        seen.push(readFileSync(path, "utf8"));
        yield "file";
      })(),
    );
    expect(seen).toEqual(["old"]);
    expect(readFileSync(path, "utf8")).toBe("new file");
  });

  it.skipIf(!isPosix)("keeps permissions and follows a link", async () => {
    const path = join(folder, "real");
    writeFileSync(path, "old");
    chmodSync(path, 0o640);
    symlinkSync("real", join(folder, "link"));
    await writeFileAtomic(join(folder, "link"), "new");
    expect(readFileSync(path, "utf8")).toBe("new");
    expect(statSync(path).mode & 0o777).toBe(0o640);
    expect(readdirSync(folder, { withFileTypes: true }).map((e) => [e.name, e.isSymbolicLink()])).toEqual([
      ["link", true],
      ["real", false],
    ]);
  });

  it("says in one line what the system refused", async () => {
    writeFileSync(join(folder, "file"), "");
    expect(await message(writeFileAtomic(join(folder, "absent", "a"), "x"))).toBe(
      "DIR/absent/a: cannot write: the folder does not exist; create it first, or choose another place",
    );
    expect(await message(writeFileAtomic(join(folder, "file", "a"), "x"))).toBe(
      "DIR/file/a: cannot write: a part of the path is a file, not a folder; check the path",
    );
    expect(await message(writeFileAtomic(folder, "x"))).toBe("DIR: cannot write: it is a folder; name a file");
    expect(await message(writeFileAtomic(join(folder, "n".repeat(300)), "x"))).toMatch(
      /: cannot write: the name is too long; choose a shorter one$/,
    );
    expect(await message(writeFileAtomic("a\0b", "x"))).toMatch(/: cannot write: it is no valid path; check the path$/);
    expect(readdirSync(folder)).toEqual(["file"]);
  });

  it.skipIf(isRoot || !isPosix)("refuses a write-protected file and folder (not testable as root)", async () => {
    const path = join(folder, "file");
    writeFileSync(path, "old");
    chmodSync(path, 0o444);
    const denied = "cannot write: permission denied; check the permissions, or choose another place";
    expect(await message(writeFileAtomic(path, "new"))).toBe(`DIR/file: ${denied}`);
    chmodSync(folder, 0o555);
    expect(await message(writeFileAtomic(join(folder, "other"), "new"))).toBe(`DIR/other: ${denied}`);
    chmodSync(folder, 0o755);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  it.skipIf(!existsSync("/dev/full"))("reports a full disk, and leaves a device what it is", async () => {
    expect(await message(writeFileAtomic("/dev/full", "x"))).toBe(
      "/dev/full: cannot write: no space left on device; free some space, or choose another place",
    );
    expect(statSync("/dev/full").isCharacterDevice()).toBe(true);
  });
});

describe("writeFolderAtomic", () => {
  const adapter = (config: string): Map<string, Chunk> =>
    new Map<string, Chunk>([
      ["adapter_config.json", config],
      ["adapter_model.safetensors", new Uint8Array([1, 2])],
    ]);

  it("writes a folder and replaces it", async () => {
    const path = join(folder, "adapter");
    await writeFolderAtomic(path, adapter("one"));
    await writeFolderAtomic(path, adapter("two"));
    expect(readFileSync(join(path, "adapter_config.json"), "utf8")).toBe("two");
    expect([...readFileSync(join(path, "adapter_model.safetensors"))]).toEqual([1, 2]);
    expect(readdirSync(path).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    expect(readdirSync(folder)).toEqual(["adapter"]);
  });

  it("leaves the old folder and no temporary when a file fails", async () => {
    const path = join(folder, "adapter");
    await writeFolderAtomic(path, adapter("old"));
    const broken = new Map<string, FileContent>([...adapter("new"), ["adapter_model.safetensors", failsMidway()]]);
    await expect(writeFolderAtomic(path, broken)).rejects.toThrow("the source dried up");
    expect(readFileSync(join(path, "adapter_config.json"), "utf8")).toBe("old");
    expect(readdirSync(folder)).toEqual(["adapter"]);
  });

  it("refuses to replace a folder with anything else in it", async () => {
    const path = join(folder, "home");
    mkdirSync(path);
    for (const name of ["thesis.tex", "adapter_config.json"]) writeFileSync(join(path, name), "mine");
    expect(await message(writeFolderAtomic(path, adapter("new")))).toBe(
      "DIR/home: cannot replace this folder: expected only adapter_config.json, adapter_model.safetensors, got thesis.tex; choose another folder",
    );
    expect(readFileSync(join(path, "adapter_config.json"), "utf8")).toBe("mine");
    mkdirSync(join(folder, "nested", "adapter_config.json"), { recursive: true });
    expect(await message(writeFolderAtomic(join(folder, "nested"), adapter("new")))).toMatch(
      /got adapter_config.json;/,
    );
  });

  it("replaces an empty folder, refuses a file, names the folder that is missing", async () => {
    mkdirSync(join(folder, "empty"));
    await writeFolderAtomic(join(folder, "empty"), adapter("new"));
    expect(readFileSync(join(folder, "empty", "adapter_config.json"), "utf8")).toBe("new");
    writeFileSync(join(folder, "file"), "mine");
    expect(await message(writeFolderAtomic(join(folder, "file"), adapter("new")))).toBe(
      "DIR/file: cannot write: expected a folder, got a file; choose another name",
    );
    expect(await message(writeFolderAtomic(join(folder, "absent", "adapter"), adapter("new")))).toMatch(
      /^DIR\/absent\/adapter: cannot write: the folder does not exist;/,
    );
    expect(readdirSync(folder).sort()).toEqual(["empty", "file"]);
  });

  it("takes plain names only", async () => {
    for (const name of ["../a", "a/b", "a\\b", "", ".", "..", "C:a", "a\0"]) {
      expect(isPlainName(name)).toBe(false);
      await expect(writeFolderAtomic(join(folder, "x"), new Map([[name, ""]]))).rejects.toThrow(/^internal: /);
    }
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("readFileChecked", () => {
  it("reads bytes as a plain Uint8Array", async () => {
    writeFileSync(join(folder, "a"), new Uint8Array([1, 2, 255]));
    const bytes = await readFileChecked(join(folder, "a"));
    expect(bytes).toEqual(new Uint8Array([1, 2, 255]));
    expect(Buffer.isBuffer(bytes)).toBe(false);
  });

  it("says in one line why it cannot", async () => {
    writeFileSync(join(folder, "a"), "");
    expect(await message(readFileChecked(join(folder, "b")))).toBe("DIR/b: cannot read: no such file; check the path");
    expect(await message(readFileChecked(join(folder, "a", "b")))).toMatch(
      /^DIR\/a\/b: cannot read: a part of the path is a file, not a folder;/,
    );
    expect(await message(readFileChecked(folder))).toBe("DIR: cannot read: it is a folder; name a file");
    await truncate(join(folder, "a"), 2 ** 31); // sparse: takes no space
    expect(await message(readFileChecked(join(folder, "a")))).toBe(
      "DIR/a: cannot read: expected at most 2 GiB, got 2147483648 bytes; keep large weights as external data",
    );
  });

  it.skipIf(!existsSync("/dev/zero"))("refuses a device, which may never end", async () => {
    expect(await message(readFileChecked("/dev/zero"))).toBe(
      "/dev/zero: cannot read: it is a device, not a file; name a file",
    );
  });
});
