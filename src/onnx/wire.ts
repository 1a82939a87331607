// protobuf messages of ONNX's schema (proto.ts), from bytes and to bytes. The reader is strict where protobuf's rules ask for
// leniency: it refuses wire types that a field does not have, fields that the schema does not know, and nested messages that
// end elsewhere than they say. What is read differently by two readers can hide something from one of them.
// Source: the encoding guide, protobuf.dev/programming-guides/encoding.
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { type Message, type MessageName, messages, type Parts, type ScalarType } from "./proto.ts";
import { WireReader } from "./wire-reader.ts";

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

/**
 * Reads a message of that name to the last byte. Bytes in it are views of `bytes`. A message that comes twice where one can
 * stand is merged, of a scalar the last one counts, and lists are joined, as protobuf has it.
 *
 * @throws Error that says what is wrong.
 */
export function decode<N extends MessageName>(name: N, bytes: Uint8Array): Message<N> {
  return new Decoder(bytes).message(name, bytes.length, 0) as Message<N>;
}

/** A message as bytes: the fields in the order of their numbers, so that the same message gives the same bytes. */
export function encode<N extends MessageName>(name: N, message: Parts<N>): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  writeMessage(writer, name, message as Fields);
  return writer.finish();
}

/** A message of any name. */
type Fields = Record<string, unknown>;

interface Field {
  readonly name: string;
  readonly number: number;
  /** How errors call it: as the schema does. */
  readonly label: string;
  /** Undefined for messages. */
  readonly scalar: ScalarType | undefined;
  readonly message: MessageName | undefined;
  /** The wire type of one value; a packed list is length-delimited besides. */
  readonly wireType: WireType;
  readonly isList: boolean;
  readonly isPacked: boolean;
  readonly isOneof: boolean;
}

interface Layout {
  readonly fields: readonly Field[];
  readonly byNumber: ReadonlyMap<number, Field>;
  /** The prototype of messages that are read: what its fields are when they are not there. */
  readonly defaults: Fields;
}

const nothing: readonly unknown[] = Object.freeze([]);

const zeros: Readonly<Record<ScalarType, unknown>> = {
  string: "",
  bytes: new Uint8Array(0),
  float: 0,
  double: 0,
  int32: 0,
  int64: 0n,
  uint64: 0n,
};

const wireTypes: Readonly<Record<ScalarType, WireType>> = {
  string: WireType.LengthDelimited,
  bytes: WireType.LengthDelimited,
  float: WireType.Bit32,
  double: WireType.Bit64,
  int32: WireType.Varint,
  int64: WireType.Varint,
  uint64: WireType.Varint,
};

const layouts = new Map<MessageName, Layout>();

function layoutOf(name: MessageName): Layout {
  let layout = layouts.get(name);
  if (layout === undefined) {
    layout = newLayout(name);
    layouts.set(name, layout);
  }
  return layout;
}

function newLayout(message: MessageName): Layout {
  const defaults: Fields = {};
  const fields = Object.entries(messages[message]).map(([name, [number, type, rule]]): Field => {
    const scalar = type in zeros ? (type as ScalarType) : undefined;
    const isList = rule === "repeated" || rule === "packed";
    defaults[name] = isList ? nothing : scalar && rule !== "oneof" ? zeros[scalar] : undefined;
    return {
      name,
      number,
      label: `${message}.${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`,
      scalar,
      message: scalar ? undefined : (type as MessageName),
      wireType: scalar ? wireTypes[scalar] : WireType.LengthDelimited,
      isList,
      isPacked: rule === "packed",
      isOneof: rule === "oneof",
    };
  });
  return { fields, byNumber: new Map(fields.map((field) => [field.number, field])), defaults };
}

class Decoder {
  readonly #bytes: Uint8Array;
  readonly #reader: WireReader;

  #messages = 0;
  #wideIntegers = 0;
  readonly #mostMessages: number;

  constructor(bytes: Uint8Array) {
    this.#mostMessages = Math.min(fewMessages + Math.floor(bytes.length / bytesPerMessage), manyMessages);
    this.#bytes = bytes;
    this.#reader = new WireReader(bytes);
  }

  /** The message that ends at `end`, merged into `earlier` if there was one. */
  message(name: MessageName, end: number, depth: number, earlier?: unknown): Fields {
    if (++this.#messages > this.#mostMessages) {
      throw new Error(`it is made of more than ${this.#mostMessages} messages, which no model of its size is`);
    }
    if (depth >= maxDepth) throw new Error(`messages are nested over ${maxDepth} deep`);
    const layout = layoutOf(name);
    const message = (earlier ?? Object.create(layout.defaults)) as Fields;
    while (this.#reader.pos < end) {
      const [number, wireType] = this.#reader.tag();
      const field = layout.byNumber.get(number);
      if (field === undefined) throw new Error(`${name} has no field ${number}; is it newer than this reader?`);
      this.#field(message, field, wireType, end, depth);
      if (field.isOneof) clearOthers(message, field, layout);
    }
    if (this.#reader.pos !== end) throw new Error(`${name} ends in the middle of a field`);
    return message;
  }

  #field(message: Fields, field: Field, wireType: WireType, end: number, depth: number): void {
    const { name, label, isList } = field;
    const isPacked = isList && wireType === WireType.LengthDelimited && field.wireType !== wireType;
    if (wireType !== field.wireType && !isPacked) {
      throw new Error(`${label}: expected wire type ${field.wireType}, got ${wireType}`);
    }
    if (!isList) {
      message[name] = this.#value(field, end, depth, message[name]);
      return;
    }
    if (message[name] === nothing) message[name] = [];
    const list = message[name] as unknown[];
    if (!isPacked) {
      this.#countWide(field, 1);
      list.push(this.#value(field, end, depth));
      return;
    }
    const stop = this.#lengthEnd(label, end);
    // Counted first: a list that is refused must not have been made.
    this.#countWide(field, this.#numbersUntil(stop));
    while (this.#reader.pos < stop) list.push(this.#value(field, stop, depth));
  }

  #value(field: Field, end: number, depth: number, earlier?: unknown): unknown {
    const reader = this.#reader;
    const start = reader.pos;
    if (field.wireType !== WireType.LengthDelimited) {
      this.#checkNumber(field, end);
      return reader[field.scalar as ScalarType]();
    }
    const stop = this.#lengthEnd(field.label, end);
    if (field.message !== undefined) return this.message(field.message, stop, depth + 1, earlier);
    reader.pos = start;
    return reader[field.scalar as ScalarType]();
  }

  /** Reads a length; gives where what it counts ends. */
  #lengthEnd(label: string, end: number): number {
    const stop = this.#reader.uint32() + this.#reader.pos;
    if (stop > end) throw new Error(`${label}: its length reaches past the end`);
    return stop;
  }

  /** How many varints end before `stop`. */
  #numbersUntil(stop: number): number {
    let count = 0;
    for (let at = this.#reader.pos; at < stop; at++) if (this.#bytes[at]! < 0x80) count++;
    return count;
  }

  #countWide({ scalar, label }: Field, count: number): void {
    if (scalar !== "int64" && scalar !== "uint64") return;
    this.#wideIntegers += count;
    if (this.#wideIntegers <= mostWideIntegers) return;
    throw new Error(`${label}: more than ${mostWideIntegers} integers in lists; save the model's tensors as raw data`);
  }

  /** Does the number that begins here end before `end`? */
  #checkNumber({ wireType, label }: Field, end: number): void {
    const start = this.#reader.pos;
    let stop = start + (wireType === WireType.Bit64 ? 8 : wireType === WireType.Bit32 ? 4 : 1);
    if (wireType === WireType.Varint) while (stop <= end && this.#bytes[stop - 1]! >= 0x80) stop++;
    if (stop > end) throw new Error(`${label}: the value reaches past the end`);
    if (stop - start > maxVarintBytes) throw new Error(`${label}: a number of more than ${maxVarintBytes} bytes`);
  }
}

/** Of a oneof's fields the last one counts. */
function clearOthers(message: Fields, field: Field, layout: Layout): void {
  for (const other of layout.fields) {
    if (other.isOneof && other !== field && message[other.name] !== undefined) message[other.name] = undefined;
  }
}

function writeMessage(writer: BinaryWriter, name: MessageName, message: Fields): void {
  for (const field of layoutOf(name).fields) {
    const value = Object.hasOwn(message, field.name) ? message[field.name] : undefined;
    if (value === undefined) continue;
    const values = (field.isList ? value : [value]) as readonly unknown[];
    if (!field.isPacked) {
      for (const item of values) writeValue(writer.tag(field.number, field.wireType), field, item);
    } else if (values.length > 0) {
      writer.tag(field.number, WireType.LengthDelimited).fork();
      for (const item of values) writeValue(writer, field, item);
      writer.join();
    }
  }
}

function writeValue(writer: BinaryWriter, field: Field, value: unknown): void {
  if (field.message !== undefined) {
    writer.fork();
    writeMessage(writer, field.message, value as Fields);
    writer.join();
    return;
  }
  try {
    (writer[field.scalar as ScalarType] as (value: unknown) => void).call(writer, value);
  } catch (cause) {
    throw new Error(`cannot write ${field.label}: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
}
