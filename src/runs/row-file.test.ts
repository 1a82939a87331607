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
  it("come back in the order that is asked for, and the file goes", () => {
    const folder = temporary();
    // What an earlier process has left is written over.
    writeFileSync(join(folder, "prefix-1.rows"), "rows of another model");
    const rows = inFolder(folder, 100).open(3);
    rows.write(0, Uint8Array.of(1, 2, 3));
    rows.write(1, Uint8Array.of(4, 5, 6));
    const into = new Uint8Array(9);
    rows.read(Int32Array.of(1, 0, 1), into);
    expect([...into]).toEqual([4, 5, 6, 1, 2, 3, 4, 5, 6]);
    expect(() => rows.read(Int32Array.of(2), into)).toThrow(/the file has become shorter/);
    expect(readdirSync(folder)).toEqual(["prefix-1.rows"]);
    rows.close();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("says what a disk refuses", () => {
    const gone = join(temporary(), "gone");
    expect(() => inFolder(gone, 100).open(3)).toThrow(
      `${join(gone, "prefix-1.rows")}: cannot write: the folder does not exist`,
    );
  });
});
