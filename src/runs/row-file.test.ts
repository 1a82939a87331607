import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { inFolder } from "./row-file.ts";

function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-rows-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

describe("rows in a file", () => {
  it("come back by key, in the order that is asked for, and the file goes", () => {
    const folder = temporary();
    const rows = inFolder(folder, 100).open(3);
    rows.write(7, Uint8Array.of(1, 2, 3));
    rows.write(40_000, Uint8Array.of(4, 5, 6));
    rows.write(7, Uint8Array.of(9, 9, 9)); // what is there stays
    expect([rows.has(7), rows.has(8)]).toEqual([true, false]);
    const into = new Uint8Array(9);
    rows.read([40_000, 7, 40_000], into);
    expect([...into]).toEqual([4, 5, 6, 1, 2, 3, 4, 5, 6]);
    expect(readdirSync(folder)).toEqual(["prefix-1.rows"]);
    rows.close();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("never reads what an earlier process has left", () => {
    const folder = temporary();
    writeFileSync(join(folder, "prefix-1.rows"), "rows of another model");
    const rows = inFolder(folder, 100).open(3);
    expect(rows.has(0)).toBe(false);
    rows.close();
  });

  it("says what a disk refuses", () => {
    const gone = join(temporary(), "gone");
    expect(() => inFolder(gone, 100).open(3)).toThrow(
      `${join(gone, "prefix-1.rows")}: cannot write: the folder does not exist`,
    );
  });
});
