// A run's checkpoint on the disk: one file, written beside itself and renamed over the one before, so that a kill at any
// moment leaves the old one or the new one. The bytes are the trainer's (writeCheckpoint, readCheckpoint).
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileError } from "./file-error.ts";
import { isTemporary, readFileChecked, writeFileAtomic } from "./files.ts";

export const checkpointName = "checkpoint.safetensors";

/**
 * Writes the bytes of a checkpoint into a folder, which is made if it is not there, in the place of the one before. Throws
 * LowrankError "file" when the system refuses (a full disk, say): the one before is intact then.
 *
 * @example
 * await train(adapted, data, { checkpoint: { save: (checkpoint) => saveCheckpoint("runs/a", writeCheckpoint(checkpoint)) } });
 */
export async function saveCheckpoint(folder: string, bytes: Uint8Array): Promise<void> {
  await mkdir(folder, { recursive: true }).catch((cause) => {
    throw fileError(folder, "write", cause);
  });
  await writeFileAtomic(join(folder, checkpointName), bytes);
}

/**
 * The bytes of a folder's checkpoint, for `readCheckpoint`; null when it has none. Files that a killed process left half
 * written are removed: only the process that goes on with the run should call this. Throws LowrankError "file" for one that
 * cannot be read.
 *
 * @example
 * const bytes = await loadCheckpoint("runs/a");
 * const resume = bytes === null ? {} : { resume: readCheckpoint(bytes, "runs/a") };
 */
export async function loadCheckpoint(folder: string): Promise<Uint8Array | null> {
  const path = join(folder, checkpointName);
  if (existsSync(folder)) await removeLeftovers(folder);
  return existsSync(path) ? readFileChecked(path) : null;
}

async function removeLeftovers(folder: string): Promise<void> {
  try {
    const names = (await readdir(folder)).filter(isTemporary);
    for (const name of names) await rm(join(folder, name), { recursive: true, force: true });
  } catch (cause) {
    throw fileError(folder, "read", cause);
  }
}
