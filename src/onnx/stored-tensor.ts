// TensorProto -> StoredTensor. A tensor's values stand in raw_data, in one of the typed fields, or in an external file;
// whatever the form, they come out as little-endian bytes whose length has been checked against type and shape.
import { LowrankError } from "../errors.ts";
import { elementCount, toBytes } from "../tensor.ts";
import { type ElementType, elementType, rawByteLength } from "./elements.ts";
import { type ExternalPlace, type ExternalReader, externalPlace, type LateBytes, lateTensor } from "./external.ts";
import type { StoredTensor } from "./model.ts";
import { externalLocation, type Message } from "./proto.ts";

const nothing = new Uint8Array(0);

/** More dimensions than any tensor has. */
const maxRank = 64;

/** Reads one tensor; faults are added to `faults`, each starting with `where`, and an empty tensor stands in. */
export function readStoredTensor(
  proto: Message<"TensorProto">,
  where: string,
  faults: string[],
  external?: ExternalReader,
): StoredTensor {
  const empty: StoredTensor = { type: "float32", dims: [0], bytes: nothing };
  const fail = (fault: string): StoredTensor => {
    faults.push(`${where}: ${fault}`);
    return empty;
  };
  const isExternal = proto.dataLocation === externalLocation || proto.externalData.length > 0;
  if (isExternal && external === undefined) return fail("its data is in an external file, and only bytes were given");
  if (proto.segment !== undefined) return fail("segmented tensors are not supported");
  const type = elementType(proto.dataType);
  if (type === undefined) return fail(`unknown element type ${proto.dataType}`);
  if (proto.dims.length > maxRank)
    return fail(`${type}: it has ${proto.dims.length} dimensions; readable are ${maxRank}`);
  const dims = proto.dims.map(Number);
  const shape = `${type} [${proto.dims}]`;
  if (dims.some((dim) => dim < 0 || !Number.isSafeInteger(dim)))
    return fail(`${shape}: dimensions must be 0 or more, below 2^53`);
  const count = elementCount(dims);
  if (!Number.isSafeInteger(count * 16)) return fail(`${shape}: the shape overflows`);

  const filled = typedFields.filter((field) => proto[field].length > 0);
  const sources = filled.length + (proto.rawData.length > 0 ? 1 : 0);
  if (sources > 1)
    return fail(`${shape}: data stands in several fields at once (${[...filled, "rawData"].join(", ")})`);

  const metadata = new Map(proto.metadataProps.map(({ key, value }) => [key, value]));
  const stored = {
    type,
    dims,
    ...(proto.docString !== "" && { doc: proto.docString }),
    ...(metadata.size > 0 && { metadata }),
  };
  if (type === "string") {
    if (proto.rawData.length > 0 || filled.some((field) => field !== "stringData"))
      return fail("strings must stand in string_data");
    if (proto.stringData.length !== count)
      return fail(`${shape}: expected ${count} strings, got ${proto.stringData.length}`);
    return { ...stored, bytes: nothing, strings: proto.stringData };
  }
  const expected = rawByteLength(type, count);
  const field = filled[0];
  if (isExternal && external !== undefined) {
    if (sources > 0) return fail(`${shape}: data stands in the file and outside it at once`);
    const place = externalPlace(proto.externalData);
    if (typeof place === "string") return fail(`${shape}: ${place}`);
    const bytes = externalBytes(place, expected, external);
    if (typeof bytes === "string") return fail(`${shape}: ${bytes}`);
    return bytes instanceof Uint8Array ? { ...stored, bytes } : lateTensor(stored, bytes, place);
  }
  if (field === undefined) {
    if (proto.rawData.length !== expected)
      return fail(`${shape}: expected ${expected} bytes, got ${proto.rawData.length}`);
    return { ...stored, bytes: proto.rawData };
  }
  const bytes = packField(proto, field, type);
  if (bytes === undefined) return fail(`${shape}: data stands in ${field}, which does not go with that type`);
  if (bytes.length !== expected) return fail(`${shape}: expected ${expected} bytes of values, got ${bytes.length}`);
  return { ...stored, bytes };
}

/** The bytes that an external file holds for a tensor, or the fault. */
function externalBytes(
  place: ExternalPlace,
  expected: number,
  external: ExternalReader,
): Uint8Array | LateBytes | string {
  const { location, offset, length = expected } = place;
  if (length !== expected) return `external data: expected ${expected} bytes, got a length of ${length}`;
  if (!Number.isSafeInteger(offset + length)) return `external data: offset ${offset} is out of range`;
  try {
    const bytes = external(location, offset, length);
    return bytes.length === expected
      ? bytes
      : `external data: expected ${expected} bytes in ${location}, got ${bytes.length}`;
  } catch (error) {
    if (error instanceof LowrankError) return `external data: ${error.message}`;
    throw error;
  }
}

const typedFields = ["floatData", "int32Data", "stringData", "int64Data", "doubleData", "uint64Data"] as const;
type TypedField = (typeof typedFields)[number];

/** The types that share int32_data, each with the array that narrows its values; sub-byte types come packed. */
const int32Arrays: Partial<Record<ElementType, { from(values: ArrayLike<number>): ArrayBufferView }>> = {
  int32: Int32Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  float8e4m3fn: Uint8Array,
  float8e4m3fnuz: Uint8Array,
  float8e5m2: Uint8Array,
  float8e5m2fnuz: Uint8Array,
  float8e8m0: Uint8Array,
  uint4: Uint8Array,
  int4: Uint8Array,
  float4e2m1: Uint8Array,
  uint2: Uint8Array,
  int2: Uint8Array,
};

function packField(proto: Message<"TensorProto">, field: TypedField, type: ElementType): Uint8Array | undefined {
  switch (field) {
    case "floatData":
      return type === "float32" || type === "complex64" ? toBytes(Float32Array.from(proto.floatData)) : undefined;
    case "doubleData":
      return type === "float64" || type === "complex128" ? toBytes(Float64Array.from(proto.doubleData)) : undefined;
    case "int64Data":
      return type === "int64" ? toBytes(BigInt64Array.from(proto.int64Data)) : undefined;
    case "uint64Data":
      if (type === "uint64") return toBytes(BigUint64Array.from(proto.uint64Data));
      return type === "uint32" ? toBytes(Uint32Array.from(proto.uint64Data, Number)) : undefined;
    case "int32Data": {
      const array = int32Arrays[type];
      return array && toBytes(array.from(proto.int32Data));
    }
    case "stringData":
      return undefined;
  }
}
