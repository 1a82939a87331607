// Where a run may keep what its frozen layers give (train/prefix.ts): in memory if it is little, else in the run folder.
import { statfsSync } from "node:fs";
import { freemem } from "node:os";
import { inFolder } from "../runs/row-file.ts";
import { inMemory, type StorePlace } from "../train/row-store.ts";

const gibibyte = 2 ** 30;

/** Memory: 1 GiB, and no more than a quarter of what is free. The folder's disk: half of what is free. */
export function prefixPlaces(folder: string): StorePlace[] {
  return [inMemory(Math.min(gibibyte, freemem() / 4)), inFolder(folder, freeBytes(folder) / 2)];
}

/** Room on the disk of a folder; none where the system does not tell. */
function freeBytes(folder: string): number {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return 0;
  }
}
