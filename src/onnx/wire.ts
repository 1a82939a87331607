// Is this a protobuf message of that schema, to the last byte? The decoder is lenient, as protobuf's rules ask for: it takes
// any wire type for any field, keeps fields that it does not know, and does not look where a nested message really ends.
// Files of strangers get no such leeway: what is read differently by two readers can hide something from one of them.
// Source: the encoding guide, protobuf.dev/programming-guides/encoding.
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

/** How deep messages may be nested in one another; a graph in an attribute of a node is three. */
const maxDepth = 100;
/** 64 bits, 7 in each byte. */
const maxVarintBytes = 10;

/**
 * Each message becomes an object of about a kilobyte, and can be two bytes long. Exported graphs without any weights have one in
 * 16 bytes or more, the largest a few hundred thousand.
 */
const bytesPerMessage = 6;
const fewMessages = 1000;
const manyMessages = 2 ** 20;

/**
 * Each 64-bit integer in a list becomes an object of 24 bytes and a place in the list, and can be one byte long. Tensors of them
 * are stored as raw bytes by every exporter; what stands in lists are sizes and axes.
 */
const mostWideIntegers = 2 ** 20;

/** Returns when `bytes` are a message of `schema`, and throws an Error that says what is wrong otherwise. */
export function checkWire(bytes: Uint8Array, schema: DescMessage): void {
  new WireChecker(bytes).message(schema, bytes.length, 0);
}

class WireChecker {
  readonly #bytes: Uint8Array;
  readonly #reader: BinaryReader;

  #messages = 0;
  #wideIntegers = 0;
  readonly #mostMessages: number;

  constructor(bytes: Uint8Array) {
    this.#mostMessages = Math.min(fewMessages + Math.floor(bytes.length / bytesPerMessage), manyMessages);
    this.#bytes = bytes;
    this.#reader = new BinaryReader(bytes);
  }

  /** The fields of a message that ends at `end`. */
  message(schema: DescMessage, end: number, depth: number): void {
    if (++this.#messages > this.#mostMessages) {
      throw new Error(`it is made of more than ${this.#mostMessages} messages, which no model of its size is`);
    }
    if (depth >= maxDepth) throw new Error(`messages are nested over ${maxDepth} deep`);
    const fields = fieldsOf(schema);
    while (this.#reader.pos < end) {
      const [number, wireType] = this.#reader.tag();
      const field = fields.get(number);
      if (field === undefined) throw new Error(`${schema.name} has no field ${number}; is it newer than this reader?`);
      this.#field(field, wireType, end, depth);
    }
    if (this.#reader.pos !== end) throw new Error(`${schema.name} ends in the middle of a field`);
  }

  #field(field: DescField, wireType: WireType, end: number, depth: number): void {
    const reader = this.#reader;
    const where = `${field.parent.name}.${field.name}`;
    const wanted = wireTypeOf(field);
    const isPacked = wireType === WireType.LengthDelimited && wanted !== wireType && field.fieldKind === "list";
    if (wireType !== wanted && !isPacked) throw new Error(`${where}: expected wire type ${wanted}, got ${wireType}`);
    const isWide = field.fieldKind === "list" && wideTypes.has(field.scalar);
    if (wireType !== WireType.LengthDelimited) {
      if (isWide) this.#countWide(where);
      this.#number(wanted, end, where);
      return;
    }
    const stop = reader.uint32() + reader.pos;
    if (stop > end) throw new Error(`${where}: its length reaches past the end`);
    if (field.message !== undefined) this.message(field.message, stop, depth + 1);
    else if (isPacked) {
      while (reader.pos < stop) {
        if (isWide) this.#countWide(where);
        this.#number(wanted, stop, where);
      }
    } else reader.pos = stop;
  }

  #countWide(where: string): void {
    if (++this.#wideIntegers <= mostWideIntegers) return;
    throw new Error(`${where}: more than ${mostWideIntegers} integers in lists; save the model's tensors as raw data`);
  }

  #number(wireType: WireType, end: number, where: string): void {
    const start = this.#reader.pos;
    let stop = start + (wireType === WireType.Bit64 ? 8 : wireType === WireType.Bit32 ? 4 : 1);
    if (wireType === WireType.Varint) while (stop <= end && this.#bytes[stop - 1]! >= 0x80) stop++;
    if (stop > end) throw new Error(`${where}: the value reaches past the end`);
    if (stop - start > maxVarintBytes) throw new Error(`${where}: a number of more than ${maxVarintBytes} bytes`);
    this.#reader.pos = stop;
  }
}

const wideTypes: ReadonlySet<ScalarType | undefined> = new Set([ScalarType.INT64, ScalarType.UINT64]);

const byNumber = new WeakMap<DescMessage, ReadonlyMap<number, DescField>>();

function fieldsOf(schema: DescMessage): ReadonlyMap<number, DescField> {
  let fields = byNumber.get(schema);
  if (fields === undefined) {
    fields = new Map(schema.fields.map((field) => [field.number, field]));
    byNumber.set(schema, fields);
  }
  return fields;
}

/** The wire type of one value of a field (a packed list is length-delimited besides). */
function wireTypeOf({ scalar, message }: DescField): WireType {
  if (message !== undefined) return WireType.LengthDelimited;
  switch (scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WireType.LengthDelimited;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return WireType.Bit64;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return WireType.Bit32;
    default: // integers and enumerations
      return WireType.Varint;
  }
}
