// Outputs of a frozen prefix on the disk: a file of rows of equal length, in the order in which they came. Which example is
// where is known to this process alone: what an earlier one left is written over, never read, so that rows of another model or
// of other data cannot be taken for this run's.
import { closeSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileError } from "./file-error.ts";

/** As train/row-store.ts has it. */
export interface RowFile {
  write(place: number, row: Uint8Array): void;
  read(places: Int32Array, into: Uint8Array): void;
  close(): void;
}

/** A place for `prefixCache` of the trainer. */
export interface RowFolder {
  readonly name: string;
  readonly maxBytes: number;
  open(rowBytes: number): RowFile;
}

/**
 * Rows in files `prefix-<number>.rows` of a folder, removed when they are closed.
 *
 * @example await train(adapted, data, { epochs: 3, prefixCache: { places: [inFolder("runs/a", 2 ** 33)] } });
 */
export function inFolder(folder: string, maxBytes: number): RowFolder {
  let opened = 0;
  return { name: "disk", maxBytes, open: (rowBytes) => rowFile(join(folder, `prefix-${++opened}.rows`), rowBytes) };
}

function rowFile(path: string, rowBytes: number): RowFile {
  const attempt = <T>(kind: "read" | "write", action: () => T): T => {
    try {
      return action();
    } catch (cause) {
      throw fileError(path, kind, cause);
    }
  };
  const file = attempt("write", () => openSync(path, "w+"));
  return {
    write(place, row) {
      const from = place * rowBytes;
      attempt("write", () => {
        for (let done = 0; done < rowBytes; ) done += writeSync(file, row, done, rowBytes - done, from + done);
      });
    },
    read(places, into) {
      attempt("read", () => {
        for (let at = 0; at < places.length; at++) {
          const from = places[at]! * rowBytes;
          for (let done = 0; done < rowBytes; ) {
            const got = readSync(file, into, at * rowBytes + done, rowBytes - done, from + done);
            if (got === 0) throw new Error("the file has become shorter");
            done += got;
          }
        }
      });
    },
    close() {
      closeSync(file);
      rmSync(path, { force: true });
    },
  };
}
