// Folders that a test may fill, and what lies in them.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

/** The checkout. */
export const root: string = fileURLToPath(new URL("../../", import.meta.url));

/** An empty folder that goes when the tests of the calling file (or describe) have ended. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-test-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Paths of all files below a folder, with / between their parts, sorted. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .sort();
}
