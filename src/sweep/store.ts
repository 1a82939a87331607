// Where the files of a sweep travel through: a folder that all machines share, or an S3-compatible bucket.
//   objects/SHA256       files of bases and data, by their content
//   sweeps/ID.json       the plan of a sweep
//   checkpoints/TRIAL    what is needed to go on with a training, replaced whole
//   results/KEY          all files that a job left, as one; written before
//   outcomes/KEY.json    what came of it, which makes it done
// Every object appears whole or not at all, and one that is written twice is the same both times, so that delivering a job twice does
// no harm.
import { createReadStream } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errorCode, fileError } from "../runs/file-error.ts";
import { readFileChecked, writeFileAtomic } from "../runs/files.ts";
import { openS3Store } from "./store-s3.ts";

/** Names are ours: letters, digits, dots, hyphens and slashes. Errors are LowrankError "file". */
export interface Store {
  /** For messages. */
  readonly name: string;
  has(key: string): Promise<boolean>;
  /** null where there is none. */
  get(key: string): Promise<Uint8Array | null>;
  put(key: string, bytes: Uint8Array): Promise<void>;
  /** Of any size. */
  putFile(key: string, path: string): Promise<void>;
  /** The content in chunks; null where there is none. */
  stream(key: string): Promise<AsyncIterable<Uint8Array> | null>;
  remove(key: string): Promise<void>;
}

/**
 * Opens a store: a folder, or `s3://bucket/prefix`.
 *
 * @throws LowrankError "config" for an address that is none, or a package that is missing.
 * @example await openStore("/mnt/shared/lowrank");
 */
export async function openStore(address: string): Promise<Store> {
  return /^s3:\/\//i.test(address) ? openS3Store(address, process.env) : folderStore(address);
}

/** A folder, on this machine or shared by several (NFS: a rename is atomic there as well). */
function folderStore(root: string): Store {
  const pathOf = (key: string): string => join(root, ...key.split("/"));
  const ready = async (key: string): Promise<string> => {
    const path = pathOf(key);
    await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
      throw fileError(dirname(path), "write", error);
    });
    return path;
  };
  const orNull = async <T>(read: () => Promise<T>): Promise<T | null> => {
    try {
      return await read();
    } catch (error) {
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
      if (errorCode(cause) === "ENOENT") return null;
      throw error;
    }
  };
  const get = (key: string): Promise<Uint8Array | null> => orNull(() => readFileChecked(pathOf(key)));
  const stream = (key: string): Promise<AsyncIterable<Uint8Array> | null> =>
    orNull(async () => {
      const content = createReadStream(pathOf(key));
      await new Promise<void>((resolve, reject) => {
        content.once("open", () => resolve());
        content.once("error", (error) => reject(fileError(pathOf(key), "read", error)));
      });
      return content as AsyncIterable<Uint8Array>;
    });
  return {
    name: root,
    async has(key) {
      const content = await stream(key);
      await content?.[Symbol.asyncIterator]().return?.();
      return content !== null;
    },
    get,
    stream,
    put: async (key, bytes) => writeFileAtomic(await ready(key), bytes),
    putFile: async (key, path) =>
      writeFileAtomic(await ready(key), createReadStream(path) as AsyncIterable<Uint8Array>),
    remove: (key) => rm(pathOf(key), { force: true }),
  };
}
