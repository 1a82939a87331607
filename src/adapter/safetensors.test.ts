// Reading and writing against files of the reference writer (safetensors 0.8), and every fault that a reader must refuse.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor, zeros } from "../tensor.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";

const fixtures = new URL("../../test/fixtures/", import.meta.url);

function fixture(path: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(path, fixtures)));
}

/** A file of a header, as text or bytes, and data. */
function file(header: string | Uint8Array, data: ArrayLike<number> = []): Uint8Array {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(Array.from(data), 8 + text.length);
  return bytes;
}

function faultsOf(bytes: Uint8Array): readonly string[] {
  try {
    readSafetensors(bytes, "x.safetensors");
  } catch (error) {
    expect(error).toBeInstanceOf(LowrankError);
    if (!(error instanceof LowrankError)) throw error;
    expect(error.code).toBe("adapter");
    expect(error.message).toMatch(/^x\.safetensors: /);
    return error.faults.map((fault) => fault.replace("x.safetensors: ", ""));
  }
  return [];
}

describe("readSafetensors", () => {
  it("reads every dtype as the reference wrote it", () => {
    const { metadata, tensors } = readSafetensors(fixture("safetensors/all-dtypes.safetensors"), "x");
    expect([...metadata]).toEqual([["format", "pt"]]);
    const expected: Record<string, Tensor> = {
      "z.scalar": tensor("float64", [], Float64Array.of(1.5)),
      a: tensor("float32", [2], Float32Array.of(-0, 2)),
      b: tensor("float32", [2, 3], Float32Array.of(1, -2, 3, 0.5, 1e-40, Number.POSITIVE_INFINITY)),
      'é"\\\n\u0001\u007f': tensor("float32", [1], Float32Array.of(1)),
      "😀": tensor("float32", [1], Float32Array.of(2)),
      "\uffff": tensor("float32", [1], Float32Array.of(3)),
      empty: tensor("float32", [0, 3], new Float32Array(0)),
      half: tensor("float16", [3], Uint16Array.of(0x3c00, 0xc100, 0x7bff)),
      bf: tensor("bfloat16", [2], Uint16Array.of(0x3f80, 0xc020)),
      i64: tensor("int64", [2], BigInt64Array.of(-1n, 2n ** 62n)),
      i32: tensor("int32", [2], Int32Array.of(-1, 7)),
      i16: tensor("int16", [1], Int16Array.of(-300)),
      i8: tensor("int8", [2], Int8Array.of(-128, 127)),
      u64: tensor("uint64", [1], BigUint64Array.of(2n ** 63n + 1n)),
      u32: tensor("uint32", [1], Uint32Array.of(4294967295)),
      u16: tensor("uint16", [1], Uint16Array.of(65535)),
      u8: tensor("uint8", [3], Uint8Array.of(0, 255, 3)),
      bool: tensor("bool", [2], Uint8Array.of(1, 0)),
    };
    expect(Object.fromEntries(tensors)).toEqual(expected);
  });

  it("gives views of the file where it lies aligned, and copies where it does not", () => {
    const bytes = fixture("golden/gpt2/adapter/adapter_model.safetensors");
    const { tensors } = readSafetensors(bytes, "x");
    expect([...tensors.values()].every(({ data }) => data.buffer === bytes.buffer)).toBe(true);
    const whole = new Uint8Array(bytes.length + 1);
    whole.set(bytes, 1);
    expect(readSafetensors(whole.subarray(1), "x").tensors).toEqual(tensors);
    expect(readSafetensors(Buffer.from(whole.buffer, 1), "x").tensors).toEqual(tensors);
  });

  it("accepts what the format allows", () => {
    const scalar = '{"dtype":"F32","shape":[],"data_offsets":[0,4]}';
    expect(readSafetensors(file(`{"s":${scalar}}`, [0, 0, 128, 63]), "x").tensors.get("s")?.data).toEqual(
      Float32Array.of(1),
    );
    expect(readSafetensors(file("  {}   "), "x").tensors.size).toBe(0);
    expect(readSafetensors(file('{"__metadata__":{}}'), "x").metadata.size).toBe(0);
    const unsorted =
      '{"b":{"data_offsets":[1,2],"shape":[1],"dtype":"U8"},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}';
    expect(Object.fromEntries(readSafetensors(file(unsorted, [255, 7]), "x").tensors)).toEqual({
      b: tensor("uint8", [1], Uint8Array.of(7)),
      a: tensor("int8", [1], Int8Array.of(-1)),
    });
    const zero =
      '{"z":{"dtype":"F32","shape":[0,5],"data_offsets":[1,1]},"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    expect(readSafetensors(file(zero, [9]), "x").tensors.get("z")).toEqual(zeros([0, 5]));
    // Names that are special in JavaScript objects, but for __proto__, are names.
    const names = '{"constructor":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"__proto__":"p"}}';
    expect([...readSafetensors(file(names, [9]), "x").tensors.keys()]).toEqual(["constructor"]);
    expect([...readSafetensors(file(names, [9]), "x").metadata]).toEqual([["__proto__", "p"]]);
  });

  it("reports all faults at once, and no more than a person reads", () => {
    const many = Array.from({ length: 50 }, (_, i) => `"t${i}":{"dtype":"F99","shape":[-1],"data_offsets":[0,4]}`);
    const faults = faultsOf(file(`{${many.join(",")}}`, [1, 2, 3, 4]));
    expect(faults).toHaveLength(21);
    expect(faults[0]).toContain('tensor "t0": expected a dtype of U64, I64, F64');
    expect(faults[1]).toContain('tensor "t0": expected shape of whole numbers from 0 to 2^53 - 1, got -1');
    expect(faults[20]).toBe("and 129 more");
  });
});

/** One tensor "a" of four bytes, with some of its fields replaced. */
function one(fields: string): Uint8Array {
  return file(`{"a":{${fields}}}`, [0, 0, 0, 0]);
}

const good = '"dtype":"F32","shape":[1],"data_offsets":[0,4]';

describe("hostile files are refused", () => {
  const length = (value: bigint): Uint8Array => {
    const bytes = file("{}");
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    return bytes;
  };
  const u8 = (name: string, begin: number, end: number): string =>
    `"${name}":{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`;

  it.each<[string, Uint8Array, string]>([
    ["empty", new Uint8Array(0), "expected at least 8 bytes of header length, got 0"],
    ["under 8 bytes", new Uint8Array(7), "expected at least 8 bytes of header length, got 7"],
    ["a header over 100 MB", length(100_000_001n), "expected a header of at most 100000000 bytes, got 100000001"],
    ["a header over 2^53", length(2n ** 53n + 1n), "got 9007199254740993"],
    ["a header of 2^64 - 1", length(2n ** 64n - 1n), "got 18446744073709551615"],
    ["a header past the end", length(3n), "expected a header of 3 bytes, got 2; the file is truncated"],
    ["no header", file(""), "expected a header of JSON: expected a value at character 0, got the end"],
    ["not UTF-8", file(Uint8Array.of(0x7b, 0xff, 0x7d)), "expected a header of UTF-8 text"],
    ["a byte order mark", file("\ufeff{}"), "expected a header of JSON"],
    ["not JSON", file("{a:1}"), "expected a header of JSON: expected a key at character 1"],
    ["a list", file("[]"), "expected a header that is a JSON object, got []"],
    ["trailing text", file("{}x"), "expected the end at character 2"],
    ["deep nesting", file("[".repeat(100_000)), "nested deeper than 32 levels"],
    ["duplicate tensors", file(`{"a":{${good}},"a":{${good}}}`, [0, 0, 0, 0]), 'duplicate key "a"'],
    ["duplicate fields", one(`${good},"dtype":"F32"`), 'duplicate key "dtype"'],
    ["duplicate metadata", file('{"__metadata__":{"k":"1","k":"2"}}'), 'duplicate key "k"'],
    ["two metadata", file('{"__metadata__":{},"__metadata__":{}}'), 'duplicate key "__metadata__"'],
    ["metadata of numbers", file('{"__metadata__":{"k":1}}'), '__metadata__ "k": expected a string, got 1'],
    ["metadata null", file('{"__metadata__":null}'), "__metadata__: expected an object of strings, got null"],
    ["a tensor that is no object", file('{"a":1}'), "expected an object of dtype, shape and data_offsets, got 1"],
    ["an unknown field", one(`${good},"strides":[1]`), 'got "strides" too'],
    ["no dtype", one('"shape":[1],"data_offsets":[0,4]'), "expected a dtype, got nothing"],
    ["an unknown dtype", one('"dtype":"F33","shape":[1],"data_offsets":[0,4]'), 'BOOL, got "F33"'],
    ["an inherited dtype", one('"dtype":"constructor","shape":[1],"data_offsets":[0,4]'), 'got "constructor"'],
    ["float8", one('"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]'), "got F8_E4M3, which is not supported"],
    ["no shape", one('"dtype":"F32","data_offsets":[0,4]'), "expected shape to be a list, got nothing"],
    ["a negative dimension", one('"dtype":"F32","shape":[-1],"data_offsets":[0,4]'), "got -1"],
    ["minus zero", one('"dtype":"F32","shape":[-0],"data_offsets":[0,4]'), "got -0"],
    ["a fraction", one('"dtype":"F32","shape":[1.5],"data_offsets":[0,4]'), "got 1.5"],
    ["a float", one('"dtype":"F32","shape":[1.0],"data_offsets":[0,4]'), "got 1.0"],
    ["an exponent", one('"dtype":"F32","shape":[1e0],"data_offsets":[0,4]'), "got 1e0"],
    ["a string", one('"dtype":"F32","shape":["1"],"data_offsets":[0,4]'), 'got "1"'],
    ["past 2^53", one('"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]'), "got 9007199254740993"],
    [
      "an offset past 2^53",
      one('"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551620]'),
      "got 18446744073709551620",
    ],
    ["a negative offset", one('"dtype":"F32","shape":[1],"data_offsets":[-4,0]'), "data_offsets of whole numbers"],
    [
      "an offset that is a fraction",
      one('"dtype":"F32","shape":[1],"data_offsets":[0.5,4.5]'),
      "data_offsets of whole numbers from 0 to 2^53 - 1, got 0.5",
    ],
    ["an offset that is text", one('"dtype":"F32","shape":[1],"data_offsets":["0",4]'), 'got "0"'],
    ["an offset that is null", one('"dtype":"F32","shape":[1],"data_offsets":[0,null]'), "got null"],
    ["no offsets", one('"dtype":"F32","shape":[1]'), "expected data_offsets to be a list, got nothing"],
    [
      "one offset",
      one('"dtype":"F32","shape":[1],"data_offsets":[4]'),
      "expected data_offsets [begin, end], got a list of 1",
    ],
    ["three offsets", one('"dtype":"F32","shape":[1],"data_offsets":[0,4,8]'), "got a list of 3"],
    ["end before begin", one('"dtype":"F32","shape":[1],"data_offsets":[4,0]'), "got [4, 0]"],
    [
      "a span that is not shape x dtype",
      one('"dtype":"F32","shape":[2],"data_offsets":[0,4]'),
      'expected 8 bytes for [2] of "F32", got 4',
    ],
    [
      "a product that overflows",
      one('"dtype":"F32","shape":[2,9223372036854775807],"data_offsets":[0,4]'),
      "got 9223372036854775807",
    ],
    [
      "a product past 2^53",
      one('"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]'),
      "under 2^53 bytes",
    ],
    [
      "a product that hides behind 0",
      one('"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]'),
      "under 2^53 bytes",
    ],
    [
      "a first begin that is not 0",
      file(`{${u8("a", 1, 4)}}`, [0, 0, 0, 0]),
      "expected to begin at 0, got 1; there is a hole",
    ],
    [
      "a hole",
      file(`{${u8("a", 0, 1)},${u8("b", 2, 4)}}`, [0, 0, 0, 0]),
      'tensor "b": expected to begin at 1, got 2; there is a hole',
    ],
    [
      "an overlap",
      file(`{${u8("a", 0, 3)},${u8("b", 2, 4)}}`, [0, 0, 0, 0]),
      "expected to begin at 3, got 2; it overlaps",
    ],
    [
      "ten tensors on one range",
      file(`{${Array.from({ length: 10 }, (_, i) => u8(`t${i}`, 0, 4)).join(",")}}`, [0, 0, 0, 0]),
      'tensor "t9": expected to begin at 4, got 0; it overlaps',
    ],
    ["a tensor inside another", file(`{${u8("a", 0, 4)},${u8("b", 1, 2)}}`, [0, 0, 0, 0]), "it overlaps another"],
    [
      "trailing bytes",
      file(`{${u8("a", 0, 3)}}`, [0, 0, 0, 0]),
      "expected 3 bytes of data, got 4; there are trailing bytes",
    ],
    ["trailing bytes alone", file("{}", [0]), "expected 0 bytes of data, got 1"],
    [
      "truncated data",
      file(`{${u8("a", 0, 5)}}`, [0, 0, 0, 0]),
      "expected 5 bytes of data, got 4; the file is truncated",
    ],
    ["__proto__", file(`{"__proto__":{${good}}}`, [0, 0, 0, 0]), 'tensor "__proto__": a name that no tensor may have'],
    ["half a surrogate", file(`{"\\ud800":{${good}}}`, [0, 0, 0, 0]), "an escape that stands for nothing"],
    [
      "a BOOL of 2",
      file('{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', [2]),
      "expected BOOL bytes of 0 or 1",
    ],
  ])("%s", (_, bytes, fault) => {
    const faults = faultsOf(bytes);
    expect(faults.join("\n")).toContain(fault);
  });

  it("any change of a byte gives an error of ours or a file, quickly", () => {
    const valid = fixture("safetensors/all-dtypes.safetensors");
    const change = fc.record({ at: fc.nat(valid.length - 1), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(valid.length), (changes, cut) => {
        const bytes = valid.slice(0, cut % 3 === 0 ? cut : valid.length);
        for (const { at, to } of changes) bytes[at] = to;
        faultsOf(bytes); // asserts that what is thrown is a LowrankError
      }),
      { numRuns: 1500 },
    );
  });
});

describe("writeSafetensors", () => {
  it.each(["safetensors/all-dtypes", "golden/gpt2/adapter/adapter_model", "golden/distilbert/adapter/adapter_model"])(
    "writes %s byte for byte, from any order",
    (name) => {
      const bytes = fixture(`${name}.safetensors`);
      const { tensors, metadata } = readSafetensors(bytes, name);
      const reversed = new Map([...tensors].reverse());
      expect(Buffer.compare(writeSafetensors(reversed, Object.fromEntries(metadata)), bytes)).toBe(0);
    },
  );

  it("writes nothing for no metadata, as the reference does", () => {
    const empty = Uint8Array.of(8, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode("{}      "));
    expect(writeSafetensors(new Map())).toEqual(empty);
    expect(writeSafetensors(new Map(), {})).toEqual(empty);
  });

  it("refuses names that no reader takes", () => {
    for (const name of ["__metadata__", "__proto__", "a\ud800"]) {
      expect(() => writeSafetensors(new Map([[name, zeros([1])]]))).toThrow(LowrankError);
    }
    expect(() => writeSafetensors(new Map(), { k: "\udc00" })).toThrow("half of a surrogate pair");
  });

  it("is read back as it was, for random tensors", () => {
    const types: TensorType[] = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16"];
    types.push("int32", "uint32", "int64", "uint64");
    const tensors = fc
      .record({ type: fc.constantFrom(...types), dims: fc.array(fc.nat(3), { maxLength: 3 }) })
      .chain(({ type, dims }) => {
        const size = dims.reduce((product, dim) => product * dim, elementBytes(type));
        return fc
          .uint8Array({ minLength: size, maxLength: size })
          .map((bytes): Tensor => tensor(type, dims, fromBytes(type, bytes.slice())));
      });
    const name = fc.string({ unit: "binary" }).filter((text) => text !== "__proto__" && text !== "__metadata__");
    fc.assert(
      fc.property(fc.array(fc.tuple(name, tensors), { maxLength: 5 }), (entries) => {
        const before = new Map(entries);
        const bytes = writeSafetensors(before, { format: "pt" });
        const after = readSafetensors(bytes, "x");
        expect(Object.fromEntries(after.tensors)).toEqual(Object.fromEntries(before));
        expect([...after.metadata]).toEqual([["format", "pt"]]);
        expect(writeSafetensors(after.tensors, { format: "pt" })).toEqual(bytes);
      }),
    );
  });
});
