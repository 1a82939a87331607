// The four files of an MNIST-like data set: what they are called, how they are read from a folder, and whether they
// are the originals.
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError, throwFaults } from "../errors.ts";
import { unpack } from "./gzip.ts";
import { type ImageSet, mnistSet } from "./idx.ts";

/** One published file: its name, and its size and SHA-256 once it is unpacked. */
export interface PublishedFile {
  name: string;
  bytes: number;
  sha256: string;
}

/** A published data set of the MNIST kind. */
export interface Catalogue {
  trainImages: PublishedFile;
  trainLabels: PublishedFile;
  testImages: PublishedFile;
  testLabels: PublishedFile;
}

/** The four files as MNIST's authors published them. */
export const mnistFiles: Catalogue = {
  trainImages: {
    name: "train-images-idx3-ubyte",
    bytes: 47_040_016,
    sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
  },
  trainLabels: {
    name: "train-labels-idx1-ubyte",
    bytes: 60_008,
    sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
  },
  testImages: {
    name: "t10k-images-idx3-ubyte",
    bytes: 7_840_016,
    sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
  },
  testLabels: {
    name: "t10k-labels-idx1-ubyte",
    bytes: 10_008,
    sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
  },
};

/** The unpacked content of the four files, by their published names. */
type Contents = ReadonlyMap<string, Uint8Array>;

export interface Loaded {
  train: ImageSet;
  test: ImageSet;
  /** Of the unpacked files, by their published names. */
  sha256: Record<string, string>;
  /** All four are the published files, byte for byte. */
  original: boolean;
}

/** Larger sets than EMNIST's 280,000 digits (220 MB) are refused: the study holds its data in memory. */
const maxFileBytes = 256 * 2 ** 20;

/**
 * Reads the four files from a folder, packed or not, with `-` or `.` before `idx`.
 *
 * Throws LowrankError with the faults of all four: "file" for those that are missing or unreadable, else "data".
 */
export async function readFolder(folder: string, catalogue: Catalogue): Promise<Loaded> {
  if (!(await isFolder(folder))) {
    throw new LowrankError("file", `${folder}: expected a folder with MNIST's four files, found none; name another`);
  }
  const contents = new Map<string, Uint8Array>();
  const missing: string[] = [];
  const damaged: string[] = [];
  const read = async ({ name }: PublishedFile): Promise<void> => {
    try {
      contents.set(name, await readContent(folder, name));
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      (error.code === "file" ? missing : damaged).push(error.message);
    }
  };
  await Promise.all(Object.values(catalogue).map(read));
  throwFaults(missing.length > 0 ? "file" : "data", folder, [...missing, ...damaged].sort());
  return checkContents(contents, catalogue, folder);
}

/** Whether any of the four files lies in the folder; true as well when it may not be looked into. */
export async function hasAny(folder: string, catalogue: Catalogue): Promise<boolean> {
  if (!(await isFolder(folder))) return false;
  const look = ({ name }: PublishedFile): Promise<string | null> => locate(folder, name).catch(() => name);
  const found = await Promise.all(Object.values(catalogue).map(look));
  return found.some((path) => path !== null);
}

/** Parses and hashes the four files. Throws LowrankError "data" with all faults, naming `where`. */
export function checkContents(contents: Contents, catalogue: Catalogue, where: string): Loaded {
  const content = ({ name }: PublishedFile): { name: string; bytes: Uint8Array } => ({
    name,
    bytes: contents.get(name)!,
  });
  const faults: string[] = [];
  const pair = (images: PublishedFile, labels: PublishedFile): ImageSet | null => {
    try {
      return mnistSet(content(images), content(labels));
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      faults.push(...error.faults);
      return null;
    }
  };
  const train = pair(catalogue.trainImages, catalogue.trainLabels);
  const test = pair(catalogue.testImages, catalogue.testLabels);
  throwFaults("data", where, faults);
  if (!train || !test) throw new Error("internal: an image set without faults is missing");
  const files = Object.values(catalogue) as PublishedFile[];
  const sha256 = Object.fromEntries(files.map(({ name }) => [name, sha256Of(contents.get(name)!)]));
  return { train, test, sha256, original: files.every((file) => sha256[file.name] === file.sha256) };
}

/** The SHA-256 of some bytes, in hexadecimal. */
export function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** `error`'s system code and what it means, in a few words. */
export function systemFault(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const words: Record<string, string> = {
    ENOENT: "not found",
    EACCES: "permission denied",
    EPERM: "not permitted",
    EROFS: "the file system is read-only",
    ENOSPC: "no space left on the device",
    ENOTDIR: "not a folder",
  };
  return words[code ?? ""] ?? message;
}

async function readContent(folder: string, name: string): Promise<Uint8Array> {
  const file = await locate(folder, name);
  if (file === null) {
    throw new LowrankError("file", `${name}: not found (nor ${variants(name).slice(1).join(", ")})`);
  }
  let bytes: Uint8Array;
  try {
    const { size } = await stat(join(folder, file));
    if (size > maxFileBytes) {
      throw new LowrankError("data", `${file}: expected at most ${maxFileBytes} bytes, got ${size}`);
    }
    bytes = await readFile(join(folder, file));
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    throw new LowrankError("file", `${file}: ${systemFault(error)}`, { cause: error });
  }
  return unpack(bytes, file, maxFileBytes);
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
}

/** The first spelling of the file's name that is a regular file in the folder. */
async function locate(folder: string, name: string): Promise<string | null> {
  for (const variant of variants(name)) {
    const found = await stat(join(folder, variant)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return null;
      throw new LowrankError("file", `${variant}: ${systemFault(error)}`, { cause: error });
    });
    if (found?.isFile()) return variant;
  }
  return null;
}

function variants(name: string): string[] {
  const dotted = name.replace("-idx", ".idx");
  return [name, dotted, `${name}.gz`, `${dotted}.gz`];
}
