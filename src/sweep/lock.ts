// One process at a time works in a sweep's folder: a file with its number and machine says which.
import { readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { LowrankError } from "../errors.ts";
import { fileError } from "../runs/file-error.ts";
import { isAlive } from "./processes.ts";

export const lockFile = "running.lock";

interface Holder {
  readonly pid: number;
  readonly host: string;
}

/**
 * Takes the folder; the result gives it back. The lock of a process of this machine that is gone counts for nothing.
 *
 * @throws LowrankError "config" while another has it.
 */
export async function holdFolder(path: string): Promise<() => Promise<void>> {
  const lock = join(path, lockFile);
  const own = JSON.stringify({ pid: process.pid, host: hostname() });
  for (;;) {
    try {
      await writeFile(lock, own, { flag: "wx" });
      return () => rm(lock, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw fileError(lock, "write", error);
      const holder = holderOf(path);
      if (holder !== null) {
        throw new LowrankError(
          "config",
          `${path}: process ${holder.pid} on ${holder.host} works on this sweep; wait for it, cancel it, or remove ${lock} if it is gone`,
        );
      }
      await rm(lock, { force: true });
    }
  }
}

/** Who works in a sweep's folder; null for nobody. Of another machine's process it cannot be told whether it is gone. */
export function holderOf(path: string): Holder | null {
  try {
    const holder = JSON.parse(readFileSync(join(path, lockFile), "utf8")) as Holder;
    return holder.host !== hostname() || isAlive(holder.pid) ? holder : null;
  } catch {
    return null;
  }
}
