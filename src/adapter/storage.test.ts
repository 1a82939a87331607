// Stored types survive reading and writing; rounding is to nearest, told, and refused where it would overflow.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type Adapter, resolveConfig } from "../lora/config.ts";
import { adapterKeys } from "../lora/keys.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { writeConfig } from "./config-file.ts";
import { readAdapter, writeAdapter } from "./peft.ts";
import { writeSafetensors } from "./safetensors.ts";
import { dequantizeRows, quantizeAdapter, quantizeRows, storageType } from "./storage.ts";

const { a, b } = adapterKeys("fc");
const config = resolveConfig({ r: 2, targetModules: ["fc"] });

function adapter(A: readonly number[], B: readonly number[]): Adapter {
  return {
    config,
    tensors: new Map([
      [a, tensor("float32", [2, 2], Float32Array.from(A))],
      [b, tensor("float32", [2, 2], Float32Array.from(B))],
    ]),
  };
}

const plain = adapter([1, -0.1, 0.3, 1e-5], [2, 0, -0, 7.7]);

describe("PEFT files of half types", () => {
  // A of float16, B of bfloat16: the reference writer puts bfloat16 first.
  const tensors = new Map<string, Tensor>([
    [a, tensor("float16", [2, 2], Uint16Array.of(0x3c00, 0xc100, 0x0001, 0x8000))],
    [b, tensor("bfloat16", [2, 2], Uint16Array.of(0x3f80, 0xc020, 0x0001, 0x8000))],
  ]);
  const files = new Map([
    ["adapter_config.json", writeConfig(config, ["fc"])],
    ["adapter_model.safetensors", writeSafetensors(tensors, { format: "pt" })],
  ]);

  it("are float32 in memory and written again byte for byte", () => {
    const read = readAdapter(files);
    expect(read.tensors.get(a)).toEqual(tensor("float32", [2, 2], Float32Array.of(1, -2.5, 2 ** -24, -0)));
    expect(read.tensors.get(b)?.data).toEqual(Float32Array.of(1, -2.5, 2 ** -133, -0));
    expect([...read.storage!]).toEqual([
      [b, "bfloat16"],
      [a, "float16"],
    ]);
    expect(writeAdapter(read)).toEqual(files);
  });

  it("become float32 where the values have changed", () => {
    const read = readAdapter(files);
    const changed = new Map([...read.tensors, [a, tensor("float32", [2, 2], Float32Array.of(0.1, 0, 0, 0))]] as const);
    const again = readAdapter(writeAdapter({ ...read, tensors: changed }));
    expect(again.tensors.get(a)?.data).toEqual(Float32Array.of(0.1, 0, 0, 0));
    expect([...again.storage!]).toEqual([[b, "bfloat16"]]);
  });

  it("are not claimed for float32", () => {
    expect(readAdapter(writeAdapter(plain))).not.toHaveProperty("storage");
  });
});

describe("quantizeAdapter", () => {
  it("rounds to float16 and says by how much", () => {
    const { adapter: half, relativeError, worst } = quantizeAdapter(plain, "float16");
    // numpy.float16 of the same values
    expect(half.tensors.get(a)?.data).toEqual(Float32Array.of(1, -0.0999755859375, 0.300048828125, 168 * 2 ** -24));
    expect(half.tensors.get(b)?.data).toEqual(Float32Array.of(2, 0, -0, 7.69921875));
    expect(worst).toBe(b);
    expect(relativeError).toBeCloseTo((Math.fround(7.7) - 7.69921875) / Math.fround(7.7), 12);
    expect(readAdapter(writeAdapter(half)).tensors).toEqual(half.tensors);
    expect(writeAdapter(half).get("adapter_model.safetensors")!.length).toBeLessThan(
      writeAdapter(plain).get("adapter_model.safetensors")!.length,
    );
  });

  it("rounds to bfloat16", () => {
    const { adapter: half, relativeError } = quantizeAdapter(plain, "bfloat16");
    expect(half.tensors.get(a)?.data).toEqual(Float32Array.of(1, -0.10009765625, 0.30078125, 1.0013580322265625e-5));
    expect(relativeError).toBeCloseTo((Math.fround(7.7) - 7.6875) / Math.fround(7.7), 12);
    expect(readAdapter(writeAdapter(half))).toEqual({ ...half, config: expect.anything() });
  });

  it("int8: a scale for each row; PEFT's files cannot hold it", () => {
    const { adapter: small } = quantizeAdapter(plain, "int8");
    const scale = Math.fround(1 / 127);
    expect(small.tensors.get(a)?.data[1]).toBe(Math.fround(-13 * scale));
    expect(small.tensors.get(b)?.data).toEqual(Float32Array.of(2, 0, 0, 7.7));
    expect(() => writeAdapter(small)).toThrow(
      `${JSON.stringify(a)}: expected float32, float16 or bfloat16, got int8, which PEFT's files cannot hold`,
    );
    const { storage: _, ...wide } = small;
    expect(readAdapter(writeAdapter(wide)).tensors).toEqual(small.tensors);
  });

  it("leaves vectors as they are with int8", () => {
    const bias = tensor("float32", [2], Float32Array.of(0.1, 3));
    const { adapter: small } = quantizeAdapter({ config, tensors: new Map([["bias", bias]]) }, "int8");
    expect([small.tensors.get("bias"), small.storage?.size]).toEqual([bias, 0]);
  });

  it("refuses what the type cannot hold, all at once", () => {
    const faults = (type: "float16" | "bfloat16" | "int8", value: Adapter): readonly string[] => {
      try {
        quantizeAdapter(value, type);
      } catch (error) {
        if (error instanceof LowrankError) return error.faults;
        throw error;
      }
      return [];
    };
    expect(faults("float16", adapter([1, 65519, 0, 0], [65504, 0, 0, 0]))).toEqual([]);
    expect(faults("float16", adapter([1, 65520, 0, 0], [0, -1e9, 0, 0]))).toEqual([
      `${JSON.stringify(a)}: expected values that float16 can hold, got 65520 at 1`,
      `${JSON.stringify(b)}: expected values that float16 can hold, got -1000000000 at 1`,
    ]);
    expect(faults("bfloat16", adapter([3.4e38, 0, 0, 0], [0, 0, 0, 0]))).toHaveLength(1);
    expect(faults("int8", adapter([Number.NaN, 0, 0, 0], [0, 0, 0, 0]))).toHaveLength(1);
    expect(() => storageType("float8")).toThrow('dtype: expected float32, float16, bfloat16 or int8, got "float8"');
  });

  it("is exact the second time, for each type", () => {
    const value = fc.float({ min: -1000, max: 1000, noNaN: true });
    const four = fc.array(value, { minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(four, four, fc.constantFrom("float16", "bfloat16", "int8"), (A, B, type) => {
        const once = quantizeAdapter(adapter(A, B), type);
        const twice = quantizeAdapter(once.adapter, type);
        expect(twice.adapter).toEqual(once.adapter);
        expect(twice.relativeError).toBe(0);
        const largest = [A, B].map((values) => Math.max(...values.map(Math.abs)));
        if (largest.some((x) => x !== 0 && x < 1e-3)) return; // such tensors are all subnormal in float16
        expect(once.relativeError).toBeLessThanOrEqual(type === "int8" ? 0.5001 / 127 : 2 ** -8);
      }),
    );
  });
});

describe("quantizeRows", () => {
  it("is off by half a step of its row at most", () => {
    const row = fc.array(fc.float({ min: -(2 ** 100), max: 2 ** 100, noNaN: true }), { minLength: 3, maxLength: 3 });
    fc.assert(
      fc.property(row, row, (first, second) => {
        const data = Float32Array.of(...first, ...second);
        const quantized = quantizeRows(data, 2);
        dequantizeRows(quantized).forEach((value, i) => {
          const scale = quantized.scales[Math.floor(i / 3)]!;
          expect(Math.abs(value - data[i]!)).toBeLessThanOrEqual(0.50001 * scale + 1e-40);
        });
      }),
    );
  });

  it("takes rows of zeros, and none", () => {
    expect(quantizeRows(Float32Array.of(0, 0, 127, -1), 2)).toEqual({
      values: Int8Array.of(0, 0, 127, -1),
      scales: Float32Array.of(0, 1),
    });
    expect(dequantizeRows(quantizeRows(new Float32Array(0), 0))).toEqual(new Float32Array(0));
  });
});
