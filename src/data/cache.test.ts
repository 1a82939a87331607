import { mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cacheFolder, replaceFolder } from "./cache.ts";
import { failure, temporaryFolder } from "./testing/samples.ts";

describe("cacheFolder", () => {
  it.each([
    ["XDG_CACHE_HOME", { XDG_CACHE_HOME: "/x", HOME: "/h" }, "/x/lowrank/mnist"],
    ["HOME, without the first", { HOME: "/h" }, "/h/.cache/lowrank/mnist"],
    ["HOME, where the first is empty", { XDG_CACHE_HOME: "", HOME: "/h" }, "/h/.cache/lowrank/mnist"],
    ["HOME, where the first is relative", { XDG_CACHE_HOME: "x", HOME: "/h" }, "/h/.cache/lowrank/mnist"],
  ])("follows %s", (_, environment, folder) => {
    expect(cacheFolder(environment)).toBe(join(folder));
  });
});

describe("replaceFolder", () => {
  const files = (text: string): Map<string, Uint8Array> => new Map([["a", new TextEncoder().encode(text)]]);

  it("makes the folder and what it lies in, and leaves nothing else", async () => {
    const root = await temporaryFolder();
    await replaceFolder(join(root, "deep", "cache"), files("new"));
    expect(await readdir(join(root, "deep"))).toEqual(["cache"]);
    expect(await readFile(join(root, "deep", "cache", "a"), "utf8")).toBe("new");
  });

  it("takes the place of what was there, whole", async () => {
    const root = await temporaryFolder();
    await mkdir(join(root, "cache", "sub"), { recursive: true });
    await writeFile(join(root, "cache", "b"), "old");
    await replaceFolder(join(root, "cache"), files("new"));
    expect(await readdir(join(root, "cache"))).toEqual(["a"]);
    expect(await readdir(root)).toEqual(["cache"]);
  });

  it("replaces a link, not what it leads to", async () => {
    const root = await temporaryFolder();
    await mkdir(join(root, "elsewhere"));
    await writeFile(join(root, "elsewhere", "b"), "kept");
    await symlink("elsewhere", join(root, "cache"));
    await replaceFolder(join(root, "cache"), files("new"));
    expect(await readdir(join(root, "cache"))).toEqual(["a"]);
    expect(await readdir(join(root, "elsewhere"))).toEqual(["b"]);
  });

  it("ends with one whole folder when several do it at once", async () => {
    const root = await temporaryFolder();
    await Promise.all(["1", "2", "3", "4"].map((text) => replaceFolder(join(root, "cache"), files(text))));
    expect(await readdir(root)).toEqual(["cache"]);
    expect(await readFile(join(root, "cache", "a"), "utf8")).toMatch(/^[1-4]$/);
  });

  it("leaves what was there, and nothing half written, when it fails", async () => {
    const root = await temporaryFolder();
    await replaceFolder(join(root, "cache"), files("old"));
    const bad = new Map([...files("new"), ["no/such/folder", new Uint8Array(1)]]);
    expect(await failure(() => replaceFolder(join(root, "cache"), bad))).toMatchObject({ code: "ENOENT" });
    expect(await readdir(root)).toEqual(["cache"]);
    expect(await readFile(join(root, "cache", "a"), "utf8")).toBe("old");
  });
});
