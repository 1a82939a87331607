// Values between JSON, bytes and typed arrays: every type comes back as it went, and what a type does not have is refused.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Tensor, TensorType } from "../tensor.ts";
import { datatypeOf, fromBinary, fromJson, textsOf, toBinary, toJson, typeOfDatatype } from "./datatypes.ts";

const types = Object.keys(datatypeOf) as TensorType[];
const inJson = types.filter((type) => type !== "float16" && type !== "bfloat16");

describe("datatypes", () => {
  it("have one name each", () => {
    for (const type of types) expect(typeOfDatatype(datatypeOf[type])).toBe(type);
    expect([typeOfDatatype("BYTES"), typeOfDatatype("fp32"), typeOfDatatype("toString")]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("come back from bytes as they went", () => {
    fc.assert(
      fc.property(fc.constantFrom(...types), fc.uint8Array({ minLength: 8, maxLength: 64 }), (type, bytes) => {
        const size = fromBinary(new Uint8Array(0), type, [0], 0);
        expect(size).toMatchObject({ type, dims: [0] });
        const flags = type === "bool" ? bytes.map((byte) => byte % 2) : bytes;
        const count = Math.floor(flags.length / bytesOf(type));
        const own = flags.slice(0, count * bytesOf(type));
        const value = fromBinary(own, type, [count], count) as Tensor;
        expect([...toBinary(value)]).toEqual([...own]);
      }),
    );
  });

  it("come back from JSON as they went", () => {
    const values: { [T in TensorType]?: readonly (number | boolean)[] } = {
      bool: [true, false],
      uint8: [0, 255],
      int8: [-128, 127],
      uint16: [0, 65_535],
      int16: [-32_768, 32_767],
      uint32: [0, 2 ** 32 - 1],
      int32: [-(2 ** 31), 2 ** 31 - 1],
      uint64: [0, Number.MAX_SAFE_INTEGER],
      int64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
      float32: [-0.5, 3.4028234663852886e38],
      float64: [0.1, Number.MAX_VALUE],
    };
    for (const type of inJson) {
      expect(toJson(fromJson(values[type], type, [2], 2) as Tensor), type).toEqual(values[type]);
      expect(
        toJson(
          fromJson(
            values[type]!.map((one) => [one]),
            type,
            [2, 1],
            2,
          ) as Tensor,
        ),
        type,
      ).toEqual(values[type]);
    }
  });

  it.each([
    ["uint8", 256],
    ["uint8", -1],
    ["int8", 128],
    ["int32", 0.5],
    ["int64", 2 ** 53],
    ["uint64", -1],
    ["bool", 2],
    ["float32", 1e39],
    ["float32", "1"],
    ["float64", null],
  ] as const)("%s has no %j", (type, value) => {
    expect(fromJson([value], type, [1], 1)).toContain("which the datatype does not have");
  });

  it("refuse half precision in JSON, and flags that are none", () => {
    expect(fromJson([1], "float16", [1], 1)).toContain("send it as binary data");
    expect(fromBinary(Uint8Array.of(2), "bool", [1], 1)).toContain("0 and 1");
    expect(fromBinary(Uint8Array.of(1, 2, 3), "float32", [1], 1)).toContain("expected 4 bytes");
  });

  it("read texts with their lengths, or say why not", () => {
    const bytes = (...parts: (string | number)[]): Uint8Array =>
      Buffer.concat(
        parts.map((part) => {
          const head = Buffer.alloc(4);
          head.writeUInt32LE(typeof part === "number" ? part : Buffer.byteLength(part));
          return typeof part === "number" ? head : Buffer.concat([head, Buffer.from(part)]);
        }),
      );
    expect(textsOf(bytes("poet", "", "naïve"))).toEqual(["poet", "", "naïve"]);
    expect(textsOf(new Uint8Array())).toEqual([]);
    expect(textsOf(bytes("a", 2 ** 32 - 1))).toContain("past the end");
    expect(textsOf(bytes("a").subarray(0, 3))).toContain("past the end");
    expect(textsOf(Uint8Array.of(1, 0, 0, 0, 0xff))).toContain("UTF-8");
  });
});

function bytesOf(type: TensorType): number {
  if (type === "bool" || type.endsWith("int8")) return 1;
  if (type.endsWith("16")) return 2;
  return type.endsWith("64") ? 8 : 4;
}
