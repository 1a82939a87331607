// Files in and out: adapters (PEFT's two files, a zip of them, `.onnx_adapter`), models, and examples. What comes in is hostile
// until it was read whole.

import { unzipSync, zipSync } from "fflate";
import {
  LowrankError,
  merge,
  readOnnxAdapter,
  readSafetensors,
  type Tensor,
  tensor,
  writeAdapter,
  writeModel,
  writeOnnxAdapter,
  writeSafetensors,
} from "lowrank";
import { pixelCount } from "../digit/bytes.ts";
import { isSymbolNames, mostExamples } from "../digit/examples.ts";
import type { Collection, Digits, ExportKind, Files } from "../protocol.ts";
import type { Base } from "./base.ts";
import { adapterOf, type Mixed } from "./mix.ts";
import { modelFor } from "./runner.ts";

/** Adapters for this base take kilobytes; a zip that unfolds to more is none. */
const mostBytes = 64_000_000;

const wanted: readonly string[] = ["adapter_config.json", "adapter_model.safetensors", "labels.json"];

/**
 * PEFT's files out of what was dropped, checked.
 *
 * @throws LowrankError "file" for what is no adapter at all, "adapter" for one that is damaged.
 */
export function readDropped(files: Files): Files {
  const names = Object.keys(files);
  const only = names.length === 1 ? names[0]! : null;
  if (only?.endsWith(".onnx_adapter")) {
    return Object.fromEntries(writeAdapter(readOnnxAdapter(files[only]!, { where: only, maxRank: 256 })));
  }
  const found = only?.endsWith(".zip") ? unzipped(files[only]!, only) : byBaseName(files);
  if (!("adapter_config.json" in found) && !("adapter_model.safetensors" in found)) {
    throw new LowrankError(
      "file",
      `${names.join(", ")}: expected a zip, an .onnx_adapter, or adapter_config.json and adapter_model.safetensors together`,
    );
  }
  adapterOf(found, only ?? "the dropped files");
  return found;
}

/** The three files that matter, wherever they lie in the zip; nothing else is unpacked. */
function unzipped(bytes: Uint8Array, name: string): Files {
  let total = 0;
  try {
    return byBaseName(
      unzipSync(bytes, {
        filter: ({ name: path, originalSize }) => {
          if (!wanted.includes(baseName(path))) return false;
          total += originalSize;
          if (total > mostBytes)
            throw new LowrankError("file", `${name}: expected at most ${mostBytes} bytes unpacked`);
          return true;
        },
      }),
    );
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    throw new LowrankError(
      "file",
      `${name}: expected a zip, got a file that cannot be unpacked (${(error as Error).message})`,
    );
  }
}

function byBaseName(files: Files): Files {
  return Object.fromEntries(
    Object.entries(files).flatMap(([path, bytes]) =>
      wanted.includes(baseName(path)) ? [[baseName(path), bytes] as const] : [],
    ),
  );
}

function baseName(path: string): string {
  return path.split("/").at(-1)!;
}

/** A file to take home. `mixed` is what is switched on. */
export function exported(kind: ExportKind, base: Base, { adapter }: Mixed): Uint8Array {
  if (kind === "base" && adapter?.labels === undefined) return base.bytes;
  const model = modelFor(base.model, adapter?.labels ?? null);
  if (kind === "base") return writeModel(model);
  if (adapter === null) {
    throw new LowrankError("config", "export: expected an adapter that is switched on, got none; choose one first");
  }
  if (kind === "merged") return writeModel(merge(model, adapter));
  if (kind === "onnx_adapter") return writeOnnxAdapter(adapter);
  return zipSync(Object.fromEntries(writeAdapter(adapter)), { level: 6 });
}

/** Examples as safetensors: `own.images` [count, 784] and `own.labels` [count], and the same of the digits that are mixed in. */
export function packExamples({ examples, labels }: Collection, { replay }: Base): Uint8Array {
  const set = (name: string, { images, labels: classes }: Digits): [string, Tensor][] => [
    [`${name}.images`, tensor("uint8", [classes.length, pixelCount], images)],
    [`${name}.labels`, tensor("uint8", [classes.length], classes)],
  ];
  if (labels === null) return writeSafetensors(new Map([...set("own", examples), ...set("replay", replay)]));
  return writeSafetensors(new Map(set("own", examples)), { labels: JSON.stringify(labels) });
}

/**
 * The examples of such a file.
 *
 * @throws LowrankError "file" for what was not written by `packExamples`.
 */
export function readExamples(bytes: Uint8Array, name: string): Collection {
  const { tensors, metadata } = readSafetensors(bytes, name);
  const [images, classes] = [tensors.get("own.images"), tensors.get("own.labels")];
  const labels = namesIn(metadata.get("labels"));
  const count = classes?.data.length ?? 0;
  const most = labels?.length ?? 10;
  const fits =
    images?.data instanceof Uint8Array &&
    classes?.data instanceof Uint8Array &&
    images.data.length === count * pixelCount &&
    count <= mostExamples &&
    classes.data.every((label) => label < most);
  if (!fits) {
    throw new LowrankError(
      "file",
      `${name}: expected own.images [count, 784] and own.labels [count] of uint8, at most ${mostExamples}, each below ${most}; save examples in Teach to get such a file`,
    );
  }
  return { examples: { images: images.data as Uint8Array, labels: classes.data as Uint8Array }, labels };
}

/** Two to ten different names; null where there are none. */
function namesIn(text: string | undefined): readonly string[] | null {
  if (text === undefined) return null;
  try {
    const names: unknown = JSON.parse(text);
    if (isSymbolNames(names)) return names;
  } catch {
    // Not written here.
  }
  return null;
}
