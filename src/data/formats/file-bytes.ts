// Parts of files, exactly as many bytes as were asked for.
import { type FileHandle, open } from "node:fs/promises";
import { LowrankError } from "../../errors.ts";
import { systemFault } from "../files.ts";

/** Opens a file for reading. Throws LowrankError "file". */
export async function openFile(path: string): Promise<FileHandle> {
  return open(path).catch((error: unknown): never => {
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  });
}

/** Fills `bytes` from `offset` on. Throws LowrankError "file", also when the file ends before. */
export async function fill(path: string, handle: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await handle
      .read(bytes, done, bytes.length - done, offset + done)
      .catch((error: unknown): never => {
        throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
      });
    if (bytesRead === 0) throw new LowrankError("file", `${path}: became shorter while it was read; start again`);
    done += bytesRead;
  }
}
