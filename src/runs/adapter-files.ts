// Adapters in the file system: a PEFT directory, an mlx-lm directory or an `.onnx_adapter` file, told apart by what is there.
// A directory's files are replaced at one moment and read as of one moment (files.ts).
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { isMlxAdapter, mlxFiles, readMlxAdapter, writeMlxAdapter } from "../adapter/mlx.ts";
import { type ParameterType, readOnnxAdapter, writeOnnxAdapter } from "../adapter/onnx-adapter.ts";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import { quantizeAdapter } from "../adapter/storage.ts";
import { LowrankError } from "../errors.ts";
import type { Adapter } from "../lora/config.ts";
import { fileError } from "./file-error.ts";
import { readFileChecked, readFilesTogether, writeFileAtomic, writeFilesAtomic } from "./files.ts";

/** What holds an adapter: a PEFT directory, an `.onnx_adapter` file, an mlx-lm directory. */
export type AdapterHome = "peft" | "onnx" | "mlx";

export interface LoadAdapterOptions {
  /** Ranks above this are refused; default 4096. */
  readonly maxRank?: number;
  /** Told of what is strange but harmless. */
  readonly onWarning?: (message: string) => void;
}

const peftFiles: readonly string[] = ["adapter_config.json", "adapter_model.safetensors"];

/**
 * Reads an adapter from wherever it is: a directory of PEFT's or mlx-lm's, or an `.onnx_adapter` file. A directory that
 * `saveAdapter` replaces meanwhile gives the old adapter or the new one, never files of both.
 *
 * @throws LowrankError "file" when it cannot be read, "adapter" with every fault of its content.
 * @example
 * const adapter = await loadAdapter("runs/first/adapter");
 */
export async function loadAdapter(path: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  const where = { ...options, where: path };
  switch (await adapterHome(path)) {
    case "onnx":
      return readOnnxAdapter(await readFileChecked(path), where);
    case "mlx":
      return readMlxAdapter(await readFilesTogether(path, mlxFiles), where);
    case "peft": {
      const files = await readFilesTogether(path, [...peftFiles, "labels.json"]);
      // Only its name matters: readAdapter says what to do about a pickled one, and must not be given it to read.
      if ((await listing(path)).includes("adapter_model.bin")) files.set("adapter_model.bin", new Uint8Array());
      return readAdapter(files, where);
    }
  }
}

/** What kind of home is at a path. Throws LowrankError "file" when there is nothing. */
export async function adapterHome(path: string): Promise<AdapterHome> {
  const stats = await stat(path).catch((error: unknown) => {
    throw fileError(path, "read", error);
  });
  if (!stats.isDirectory()) return "onnx";
  const names = await listing(path);
  if (isMlxAdapter(names)) return "mlx";
  if (!names.some((name) => name.startsWith("adapter_"))) {
    throw new LowrankError(
      "file",
      `${path}: expected an adapter's directory (${peftFiles.join(", ")}), got one with neither file; check the path`,
    );
  }
  return "peft";
}

/**
 * Writes an adapter as a PEFT directory. Whatever the moment at which this process is killed, who reads the directory finds the
 * old adapter or the new one, PEFT included. Other files in it (a README.md, a tokenizer) stay. One writer at a time.
 *
 * @throws LowrankError "adapter" for what PEFT's files cannot hold, "file" when the system refuses.
 * @example
 * await saveAdapter("adapters/tuned", adapter);
 */
export async function saveAdapter(directory: string, adapter: Adapter): Promise<void> {
  await writeFilesAtomic(directory, writeAdapter(adapter));
}

export interface ConvertOptions {
  /** The type that values are stored in; by default that of the source, and float32 in an `.onnx_adapter`. */
  readonly dtype?: ParameterType;
}

/** An adapter as the bytes of another home. */
export interface ConvertedAdapter {
  readonly home: AdapterHome;
  /** By their names in the directory; an `.onnx_adapter` is one file named "". */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** What rounding to `dtype` changes at most, relative to the largest value of a tensor; 0 where nothing is rounded. */
  readonly relativeError: number;
}

/**
 * An adapter in another home, nothing written yet.
 *
 * @throws LowrankError "adapter" that lists what that home cannot hold.
 * @example
 * await writeConverted("tuned.onnx_adapter", convertAdapter(await loadAdapter("tuned"), "onnx", { dtype: "float16" }));
 */
export function convertAdapter(adapter: Adapter, home: AdapterHome, options: ConvertOptions = {}): ConvertedAdapter {
  const { dtype } = options;
  const { storage: _, ...wide } = adapter;
  const rounded = dtype === undefined || dtype === "float32" ? null : quantizeAdapter(adapter, dtype);
  const stored = rounded?.adapter ?? (dtype === "float32" ? wide : adapter);
  const relativeError = rounded?.relativeError ?? 0;
  switch (home) {
    case "peft":
      return { home, files: writeAdapter(stored), relativeError };
    case "mlx":
      return { home, files: writeMlxAdapter(stored), relativeError };
    case "onnx":
      // Rounded here, after the scale is in B, and not twice.
      return { home, files: new Map([["", writeOnnxAdapter(adapter, { dtype: dtype ?? "float32" })]]), relativeError };
  }
}

/** Writes a converted adapter to `path`, a directory or a file as its home has it; all of it or nothing. */
export async function writeConverted(path: string, { home, files }: ConvertedAdapter): Promise<void> {
  if (home === "onnx") await writeFileAtomic(path, files.get("")!);
  else await writeFilesAtomic(path, files);
}

async function listing(path: string): Promise<string[]> {
  return readdir(path).catch((error: unknown) => {
    throw fileError(join(path, "."), "read", error);
  });
}
