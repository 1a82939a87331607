// An ONNX model from a path, with the weights that lie in files beside it. Every such file must be a plain file in the
// model's own folder or below: a link that leads out of it is refused, whatever the model says.
import { closeSync, fstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { LowrankError } from "../errors.ts";
import type { ExternalReader } from "../onnx/external.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { fileError } from "./file-error.ts";
import { readFileChecked } from "./files.ts";

/**
 * Reads a model and its external data. Weights of 1 MiB and more that lie in files of their own stay there: their bytes are read
 * when something asks for them, and sessions get them from the files, so that models of any size can be opened. Keep the files
 * as they are for as long as the model is used.
 *
 * @throws LowrankError "file" when the model's file cannot be read, "model" with all faults of its content, those of its
 * external files among them.
 * @example const model = await loadModel("model.onnx");
 */
export async function loadModel(path: string): Promise<Model> {
  const bytes = await readFileChecked(path);
  return readModel(bytes, path, { external: externalReader(dirname(path)) });
}

/** Reads ranges of the files in `folder`. */
function externalReader(folder: string): ExternalReader {
  return (location, offset, length) => {
    const path = join(folder, ...location.split("/"));
    let file: number;
    try {
      const inside = relative(realpathSync(folder), realpathSync(path));
      if (inside === "" || inside === ".." || inside.startsWith(`..${sep}`)) {
        throw new LowrankError("model", `${location}: a link leads out of the model's folder`);
      }
      // Before opening it: a pipe would wait for a writer for ever.
      if (!statSync(path).isFile()) throw new LowrankError("model", `${location}: expected a file`);
      file = openSync(path, "r");
    } catch (error) {
      throw error instanceof LowrankError ? error : asModelError(location, error);
    }
    try {
      const { size } = fstatSync(file);
      // Checked before anything is allocated: a hostile length must not cost memory.
      if (offset + length > size) {
        throw new LowrankError("model", `${location}: expected ${length} bytes at ${offset}, got a file of ${size}`);
      }
      if (length < leastLateBytes) return readRange(file, offset, length);
      return { length, folder: resolve(folder), read: () => readLate(path, location, offset, length) };
    } finally {
      closeSync(file);
    }
  };
}

/** Larger weights stay in their file until something asks for their values; the runtime reads them from there itself. */
const leastLateBytes = 2 ** 20;

function readLate(path: string, location: string, offset: number, length: number): Uint8Array {
  let file: number | undefined;
  try {
    file = openSync(path, "r");
    return readRange(file, offset, length);
  } catch (error) {
    throw error instanceof LowrankError ? error : asModelError(location, error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function readRange(file: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = readSync(file, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
    if (count === 0) throw new LowrankError("model", `the file ended after ${offset + done} bytes`);
    done += count;
  }
  return bytes;
}

function asModelError(location: string, cause: unknown): LowrankError {
  const error = fileError(basename(location), "read", cause);
  const reason = error instanceof Error ? error.message : String(error);
  return new LowrankError("model", reason, { cause });
}
