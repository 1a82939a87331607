// Weights in files beside the model: what TensorProto.external_data says, checked before any file is touched. The room reads
// no files itself; whoever has some gives a function. Format: onnx.proto, "external_data", and docs/ExternalData.md.
import type { StoredTensor } from "./model.ts";
import type { Message } from "./proto.ts";

/**
 * Gives bytes of a file beside the model, or leaves them there for now. `location` is a checked relative path with forward slashes. May throw a LowrankError,
 * whose message becomes the tensor's fault.
 */
export type ExternalReader = (location: string, offset: number, length: number) => Uint8Array | LateBytes;

/** Bytes that stay in their file until they are asked for. */
export interface LateBytes {
  readonly length: number;
  /** The folder that the location is below, as the runtime is told it. */
  readonly folder: string;
  /** Throws LowrankError "model" when the file is not what it was. */
  read(): Uint8Array;
}

/** Where a file on disk holds a tensor's bytes. */
export interface FilePlace {
  readonly folder: string;
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** By identity: a copy of a tensor with other bytes must not be taken for what the file holds. */
const places = new WeakMap<StoredTensor, FilePlace>();

/** The place of a tensor that was left in its file; undefined for those in memory. */
export function filePlaceOf(stored: StoredTensor): FilePlace | undefined {
  return places.get(stored);
}

/** A tensor whose bytes are read each time that they are asked for, unless something still holds those of the last time. */
export function lateTensor(
  described: Omit<StoredTensor, "bytes">,
  late: LateBytes,
  place: ExternalPlace,
): StoredTensor {
  let held: WeakRef<Uint8Array> | undefined;
  const stored: StoredTensor = {
    ...described,
    get bytes() {
      let bytes = held?.deref();
      if (bytes === undefined) {
        bytes = late.read();
        held = new WeakRef(bytes);
      }
      return bytes;
    },
  };
  places.set(stored, { folder: late.folder, location: place.location, offset: place.offset, length: late.length });
  return stored;
}

/** Where a tensor's bytes are. */
export interface ExternalPlace {
  readonly location: string;
  readonly offset: number;
  /** Undefined where the file does not say: as many as the shape needs. */
  readonly length: number | undefined;
}

const knownKeys = new Set(["location", "offset", "length", "checksum", "basepath"]);

/** Reads the entries of `external_data`, or gives the fault in them. */
export function externalPlace(entries: readonly Message<"StringStringEntryProto">[]): ExternalPlace | string {
  const values = new Map<string, string>();
  for (const { key, value } of entries) {
    if (values.has(key)) return `external data: ${key} stands there twice`;
    if (!knownKeys.has(key)) return `external data: unknown key ${JSON.stringify(key)}`;
    values.set(key, value);
  }
  const location = values.get("location") ?? "";
  const fault = locationFault(location);
  if (fault !== undefined) return `external data: location ${JSON.stringify(location)} ${fault}`;
  const numbers: Record<string, number | undefined> = {};
  for (const key of ["offset", "length"]) {
    const text = values.get(key);
    if (text === undefined) continue;
    const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(number))
      return `external data: ${key} ${JSON.stringify(text)}: expected a whole number of bytes`;
    numbers[key] = number;
  }
  return { location, offset: numbers.offset ?? 0, length: numbers.length };
}

/** Why a location is no plain path below the model's folder, on any platform; undefined when it is one. */
function locationFault(location: string): string | undefined {
  if (location === "") return "is empty";
  if (location.includes("\0")) return "has a NUL in it";
  if (location.includes("\\")) return "has a backslash in it";
  if (location.startsWith("/") || /^[A-Za-z]:/.test(location)) return "is absolute";
  const segments = location.split("/");
  if (segments.includes("..")) return "leaves the model's folder";
  if (segments.some((segment) => segment === "" || segment === ".")) return "is no plain path";
  return undefined;
}
