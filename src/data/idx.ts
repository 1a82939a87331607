// The IDX format: n-dimensional arrays of numbers, big-endian, as MNIST is published in; and MNIST's pairs of images
// and labels in it. Format: LeCun, Cortes & Burges, "The MNIST database of handwritten digits": two zero bytes, the
// type, the number of dimensions, each dimension as a 32-bit integer, then the values, row-major.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Tensor, TensorArrays } from "../tensor.ts";

type IdxType = "uint8" | "int8" | "int16" | "int32" | "float32" | "float64";

/** An IDX file's content: its element type, its shape and its values (bytes are a view of the file's). */
export type IdxArray = Tensor<IdxType>;

/** Gray images of 28 x 28 pixels and their labels, 0 to 9. */
export interface ImageSet {
  /** 0 is background, 255 full ink. */
  images: Uint8Array; // [count * 784]
  labels: Uint8Array; // [count]
  count: number;
}

/** A file's bytes and the name that errors give it. */
export interface NamedBytes {
  name: string;
  bytes: Uint8Array;
}

/** Pixels on each side of an MNIST image. */
const imageSide = 28;

/** Pixels of an MNIST image. */
export const imagePixels: number = imageSide * imageSide;

/**
 * Reads an (uncompressed) IDX file.
 *
 * Throws LowrankError "data" with all that is wrong: magic bytes, type, dimensions that overflow, short data or
 * trailing bytes.
 *
 * @example
 * const { dims, data } = parseIdx(new Uint8Array([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "two-labels"); // [2], 7 and 9
 */
export function parseIdx(bytes: Uint8Array, name: string): IdxArray {
  const { type, dims, start } = idxLayout(bytes, bytes.length, name);
  return { type, dims, data: idxValues(type, bytes.subarray(start)) } as IdxArray;
}

/** Where the values of an IDX file are: all that its first bytes say. */
export interface IdxLayout {
  readonly type: IdxType;
  readonly dims: readonly number[];
  /** First byte of the values. */
  readonly start: number;
}

/** No header is longer: 255 dimensions. */
export const maxIdxHeaderBytes: number = 4 + 4 * 255;

/** As `parseIdx`, from the file's first bytes, its header among them, and its size. */
export function idxLayout(bytes: Uint8Array, size: number, name: string): IdxLayout {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { type, dims, faults } = parseHeader(view);
  const start = 4 + 4 * dims.length;
  if (faults.length === 0 && type !== null) {
    // Zeros are left out, so that no order of dimensions hides an overflow behind an empty array.
    const extent = dims.reduce((product, dim) => product * Math.max(dim, 1), elements[type].bytes);
    const expected = dims.includes(0) ? 0 : extent;
    const got = size - start;
    if (!Number.isSafeInteger(extent)) faults.push(`the dimensions [${dims}] overflow: more than 2^53 bytes`);
    else if (got < expected) faults.push(`short data: expected ${expected} bytes for [${dims}], got ${got}`);
    else if (got > expected) faults.push(`trailing bytes: expected ${expected} bytes for [${dims}], got ${got}`);
  }
  throwFaults("data", name, faults);
  if (type === null) throw new Error("internal: an IDX file without a type passed");
  return { type, dims, start };
}

/** The values in some bytes of an IDX file, a whole number of them; of bytes a view. */
export function idxValues(type: IdxType, bytes: Uint8Array): IdxArray["data"] {
  return elements[type].read(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0);
}

/**
 * The pixels of an IDX file of MNIST images, [count * 784], a view of the bytes.
 *
 * Throws LowrankError "data" when the file is no IDX file, or holds anything but 28 x 28 unsigned bytes per image.
 */
export function mnistImages(bytes: Uint8Array, name: string): Uint8Array {
  const { type, dims, data } = parseIdx(bytes, name);
  const fits = type === "uint8" && dims.length === 3 && dims[0]! > 0 && dims[1] === imageSide && dims[2] === imageSide;
  if (!fits) throw new LowrankError("data", `${name}: expected uint8 images [count, 28, 28], got ${type} [${dims}]`);
  return data as Uint8Array;
}

/**
 * The labels of an IDX file of MNIST labels, [count], a view of the bytes.
 *
 * Throws LowrankError "data" when the file is no IDX file, or holds anything but digits.
 */
export function mnistLabels(bytes: Uint8Array, name: string): Uint8Array {
  const { type, dims, data } = parseIdx(bytes, name);
  if (type !== "uint8" || dims.length !== 1 || dims[0] === 0) {
    throw new LowrankError("data", `${name}: expected uint8 labels [count], got ${type} [${dims}]`);
  }
  const labels = data as Uint8Array;
  const first = labels.findIndex((label) => label > 9);
  if (first >= 0) {
    const over = labels.reduce((count, label) => count + (label > 9 ? 1 : 0), 0);
    throw new LowrankError(
      "data",
      `${name}: expected labels 0 to 9, got ${labels[first]} at index ${first} (${over} labels are over 9)`,
    );
  }
  return labels;
}

/**
 * A pair of MNIST files as one checked set.
 *
 * Throws LowrankError "data" with the faults of both files, or when they differ in their counts.
 */
export function mnistSet(imageFile: NamedBytes, labelFile: NamedBytes): ImageSet {
  const faults: string[] = [];
  const images = collect(faults, () => mnistImages(imageFile.bytes, imageFile.name));
  const labels = collect(faults, () => mnistLabels(labelFile.bytes, labelFile.name));
  if (images && labels && images.length !== labels.length * imagePixels) {
    const counts = `${images.length / imagePixels} images, but ${labelFile.name} holds ${labels.length} labels`;
    faults.push(`${imageFile.name}: holds ${counts}; the two files do not belong together`);
  }
  if (faults.length > 1) throw new LowrankError("data", faults.join("\n"), { faults });
  if (faults.length === 1 || !images || !labels) throw new LowrankError("data", faults.join());
  return { images, labels, count: labels.length };
}

function parseHeader(view: DataView): { type: IdxType | null; dims: number[]; faults: string[] } {
  const got = view.byteLength;
  if (got < 4) return { type: null, dims: [], faults: [`expected an IDX header of at least 4 bytes, got ${got}`] };
  if (view.getUint16(0) !== 0) {
    const magic = view.getUint32(0).toString(16).padStart(8, "0");
    return { type: null, dims: [], faults: [`bad magic: expected an IDX file (0000....), got ${magic}`] };
  }
  const faults: string[] = [];
  const code = view.getUint8(2);
  const type = typeCodes[code] ?? null;
  if (type === null) {
    faults.push(`bad type: expected 08, 09, 0b, 0c, 0d or 0e, got ${code.toString(16).padStart(2, "0")}`);
  }
  const rank = view.getUint8(3);
  const dims: number[] = [];
  if (rank === 0) faults.push("bad dimension count: expected at least 1, got 0");
  else if (got < 4 + 4 * rank) faults.push(`bad dimension count: ${rank} do not fit a file of ${got} bytes`);
  else for (let i = 0; i < rank; i++) dims.push(view.getUint32(4 + 4 * i));
  return { type, dims, faults };
}

const typeCodes: Readonly<Record<number, IdxType>> = {
  8: "uint8",
  9: "int8",
  11: "int16",
  12: "int32",
  13: "float32",
  14: "float64",
};

/** How to read each type from `start` to the end of the file, which is a whole number of elements. */
const elements: { [K in IdxType]: { bytes: number; read: (view: DataView, start: number) => TensorArrays[K] } } = {
  uint8: {
    bytes: 1,
    read: (view, start) => new Uint8Array(view.buffer, view.byteOffset + start, view.byteLength - start),
  },
  int8: {
    bytes: 1,
    read: (view, start) => new Int8Array(view.buffer, view.byteOffset + start, view.byteLength - start),
  },
  int16: {
    bytes: 2,
    read: (view, start) => Int16Array.from(offsets(view, start, 2), (offset) => view.getInt16(offset)),
  },
  int32: {
    bytes: 4,
    read: (view, start) => Int32Array.from(offsets(view, start, 4), (offset) => view.getInt32(offset)),
  },
  float32: {
    bytes: 4,
    read: (view, start) => Float32Array.from(offsets(view, start, 4), (offset) => view.getFloat32(offset)),
  },
  float64: {
    bytes: 8,
    read: (view, start) => Float64Array.from(offsets(view, start, 8), (offset) => view.getFloat64(offset)),
  },
};

function* offsets(view: DataView, start: number, step: number): Generator<number> {
  for (let offset = start; offset < view.byteLength; offset += step) yield offset;
}

/** The result of `read`, or null with its fault noted. */
function collect<T>(faults: string[], read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    faults.push(error.message);
    return null;
  }
}
