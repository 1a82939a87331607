// The table of messages and its codec against protobuf-es, which has the schema from onnx.proto itself.
import { readdirSync, readFileSync } from "node:fs";
import { create, type DescField, type DescMessage, fromBinary, ScalarType, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attributeKinds, externalLocation, type MessageName, messages } from "./proto.ts";
import {
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  file_onnx,
  ModelProtoSchema,
  TensorProto_DataLocation,
} from "./testing/gen/onnx_pb.js";
import { decode, encode } from "./wire.ts";

const withNested = (schema: DescMessage): DescMessage[] => [schema, ...schema.nestedMessages.flatMap(withNested)];
const schemas = file_onnx.messages.flatMap(withNested);

const nameOf = (schema: DescMessage) => schema.typeName.replace(/^onnx\./, "") as MessageName;

/** What the table says of a field, from the schema. */
function row(field: DescField): [string, unknown[]] {
  const scalar = field.scalar === undefined ? "int32" : ScalarType[field.scalar].toLowerCase();
  const type = field.message === undefined ? scalar : nameOf(field.message);
  const list = field.fieldKind === "list" ? [field.packed ? "packed" : "repeated"] : [];
  return [field.localName, [field.number, type, ...(field.oneof ? ["oneof"] : list)]];
}

describe("the table", () => {
  it("is the schema, field by field, in the order of their numbers", () => {
    const ordered = (schema: DescMessage) => [...schema.fields].sort((a, b) => a.number - b.number);
    const expected = schemas.map((schema) => [nameOf(schema), ordered(schema).map(row)]);
    const table = Object.entries(messages).map(([name, fields]) => [name, Object.entries(fields)]);
    expect(Object.fromEntries(table)).toEqual(Object.fromEntries(expected));
  });

  it("has the schema's enumerations", () => {
    const names = Object.entries(AttributeProto_AttributeType).filter(([, value]) => typeof value === "number");
    expect(attributeKinds).toEqual(Object.fromEntries(names));
    expect(externalLocation).toBe(TensorProto_DataLocation.EXTERNAL);
  });
});

type Values = Record<string, unknown>;

/** Every field of a message of either codec, nested ones too, defaults where there is none. */
function plain(schema: DescMessage, message: Values): Values {
  return Object.fromEntries(
    schema.fields.map((field) => {
      const value = fieldOf(field, message);
      const item = (value: unknown) =>
        field.message === undefined || value === undefined ? value : plain(field.message, value as Values);
      return [field.localName, Array.isArray(value) ? value.map(item) : item(value)];
    }),
  );
}

function fieldOf({ localName, oneof }: DescField, message: Values): unknown {
  if (oneof === undefined || !("$typeName" in message)) return message[localName];
  const choice = message[oneof.localName] as { case?: string; value?: unknown };
  return choice.case === localName ? choice.value : undefined;
}

/** Both codecs read these bytes alike, and write what they read alike. */
function expectAlike(schema: DescMessage, bytes: Uint8Array): void {
  const theirs = fromBinary(schema, bytes);
  const ours = decode(nameOf(schema), bytes);
  expect(plain(schema, ours as Values)).toEqual(plain(schema, theirs as unknown as Values));
  expect(Buffer.compare(encode(nameOf(schema), ours as never), toBinary(schema, theirs))).toBe(0);
}

const scalars: Partial<Record<ScalarType, fc.Arbitrary<unknown>>> = {
  [ScalarType.STRING]: fc.string({ unit: "grapheme" }),
  [ScalarType.BYTES]: fc.uint8Array(),
  [ScalarType.FLOAT]: fc.float(),
  [ScalarType.DOUBLE]: fc.double(),
  [ScalarType.INT32]: fc.integer(),
  [ScalarType.INT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.UINT64]: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
};

const made = new Map<string, fc.Arbitrary<Values>>();

/** Any message of a schema, as protobuf-es makes it from plain values. */
function anyMessage(schema: DescMessage, depth: number): fc.Arbitrary<Values> {
  const key = `${schema.typeName} ${depth}`;
  const known = made.get(key);
  if (known !== undefined) return known;
  const fields = schema.fields.filter(({ message }) => message === undefined || depth > 0);
  const single = fields.filter(({ oneof }) => oneof === undefined);
  const record: Record<string, fc.Arbitrary<unknown>> = Object.fromEntries(
    single.map((field) => [field.localName, anyField(field, depth)]),
  );
  for (const oneof of schema.oneofs) {
    const choices = fields.filter((field) => field.oneof === oneof);
    const arbitraries = choices.map((field) =>
      fc.record({ case: fc.constant(field.localName), value: anyField(field, depth) }),
    );
    if (choices.length > 0) record[oneof.localName] = fc.oneof(...arbitraries);
  }
  const arbitrary = fc.record(record, { requiredKeys: [] });
  made.set(key, arbitrary);
  return arbitrary;
}

function anyField(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const value =
    field.message !== undefined
      ? anyMessage(field.message, depth - 1)
      : field.enum !== undefined
        ? fc.constantFrom(...field.enum.values.map(({ number }) => number))
        : scalars[field.scalar!]!;
  return field.fieldKind === "list" ? fc.array(value, { maxLength: 2 }) : value;
}

const bytesOf = (schema: DescMessage, values: Values) => toBinary(schema, create(schema, values));

const twoOfOne = fc
  .constantFrom(...schemas)
  .chain((schema) => fc.tuple(fc.constant(schema), anyMessage(schema, 2), anyMessage(schema, 2)));

const fixtures = new URL("../../test/fixtures/", import.meta.url);
const models = (readdirSync(fixtures, { recursive: true }) as string[]).filter((path) => path.endsWith(".onnx"));

describe("the codec and protobuf-es read and write alike", () => {
  it.each(models)("%s", (path) => expectAlike(ModelProtoSchema, new Uint8Array(readFileSync(new URL(path, fixtures)))));

  it("any message of any name", () => {
    fc.assert(
      fc.property(twoOfOne, ([schema, values]) => expectAlike(schema, bytesOf(schema, values))),
      { numRuns: 300 },
    );
  });

  it("two messages behind one another: the last scalar counts, messages are merged, lists are joined", () => {
    fc.assert(
      fc.property(twoOfOne, ([schema, first, second]) =>
        expectAlike(schema, new Uint8Array(Buffer.concat([bytesOf(schema, first), bytesOf(schema, second)]))),
      ),
      { numRuns: 300 },
    );
  });

  it("lists of numbers in one run or one by one, whatever the schema says", () => {
    const run = (...values: number[]) => Uint8Array.from(values);
    const bytes = new BinaryWriter()
      .tag(1, WireType.Varint) // dims
      .int64(-3)
      .tag(1, WireType.LengthDelimited)
      .bytes(run(4, 5, 0x80, 1))
      .tag(4, WireType.Bit32) // float_data
      .float(0.5)
      .tag(4, WireType.LengthDelimited)
      .bytes(run(0, 0, 0x80, 0x3f))
      .tag(7, WireType.Varint) // int64_data
      .int64(7)
      .finish();
    const { dims, floatData, int64Data } = decode("TensorProto", bytes);
    expect({ dims, floatData, int64Data }).toEqual({ dims: [-3n, 4n, 5n, 128n], floatData: [0.5, 1], int64Data: [7n] });
  });
});

describe("what a message has", () => {
  it("is told from defaults when it is written", () => {
    const read = decode("AttributeProto", bytesOf(AttributeProtoSchema, { name: "", i: 0n }));
    expect(read).toMatchObject({ name: "", i: 0n });
    expect([read.docString, read.f, read.s, read.t, read.ints]).toEqual(["", 0, new Uint8Array(0), undefined, []]);
    expect([...encode("AttributeProto", read)]).toEqual([0x0a, 0, 0x18, 0]);
    expect(encode("AttributeProto", { ints: [], name: undefined })).toEqual(new Uint8Array(0));
  });

  it("are views of the bytes, not copies", () => {
    const bytes = encode("TensorProto", { rawData: Uint8Array.of(1, 2, 3), stringData: [Uint8Array.of(4)] });
    const { rawData, stringData } = decode("TensorProto", bytes);
    expect([rawData.buffer, stringData[0]!.buffer]).toEqual([bytes.buffer, bytes.buffer]);
    expect([rawData.byteOffset, rawData.length]).toEqual([bytes.length - 3, 3]);
  });

  it("is named when it cannot be written", () => {
    expect(() => encode("ModelProto", { graph: { node: [{ attribute: [{ f: 1e40 }] }] } })).toThrow(
      /cannot write AttributeProto\.f: /,
    );
    expect(() => encode("TensorProto", { dims: [2n ** 63n] })).toThrow(/cannot write TensorProto\.dims: /);
  });
});
