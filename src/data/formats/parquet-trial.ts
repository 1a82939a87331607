// Whether a Parquet file can be read at all, found out before it is read here. A format of lengths and counts that refer to
// each other has too many ways of being damaged to check them one by one (and hyparquet checks few), so the file is read once
// in a process that may be lost: with limits of processor time and memory for each row group, in proportion to its size.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { LowrankError } from "../../errors.ts";

/**
 * Reads all of a Parquet file in another process, a row group at a time.
 *
 * @throws LowrankError "data" that names the row group and what is wrong with it, "config" when no process can be started.
 */
export async function tryParquet(path: string): Promise<void> {
  const outcome = await trialOf(path);
  if (!("fault" in outcome)) return;
  const { fault, group } = outcome;
  throw new LowrankError(
    "data",
    `${path}${group === null ? "" : `, row group ${group}`}: no Parquet file that can be read: ${fault}`,
  );
}

type Outcome = { readonly groups: number } | { readonly fault: string; readonly group: number | null };

function trialOf(path: string): Promise<Outcome> {
  const script = fileURLToPath(new URL("./parquet-trial-process.js", import.meta.url));
  return new Promise((resolve, reject) => {
    // Electron is Node.js only when it is told so. The reader is lost when it takes too much: what V8 then says helps nobody.
    const child = spawn(process.execPath, [script, path], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, ELECTRON_RUN_AS_NODE: "1" },
    });
    const told: Buffer[] = [];
    child.stdout.on("data", (bytes: Buffer) => told.push(bytes));
    child.on("error", (cause) => {
      const message = `${path}: a Parquet file is read in a process of its own first, which cannot be started: ${cause.message}`;
      reject(new LowrankError("config", message, { cause }));
    });
    child.on("close", (code, signal) => {
      const line = Buffer.concat(told).toString("utf8");
      if (line.endsWith("\n")) resolve(JSON.parse(line) as Outcome);
      else resolve({ fault: `reading it ended a process (${signal ?? `exit ${code}`}); is it damaged?`, group: null });
    });
  });
}
