// `.onnx_adapter`: what ONNX Runtime's own writer wrote is read; what we write is read back; hostile files are refused.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { adapterKeys, modulesOf } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { adapterParameters, readOnnxAdapter, writeOnnxAdapter } from "./onnx-adapter.ts";
import { encodeOnnxAdapter, scanOnnxAdapter } from "./onnx-adapter-file.ts";
import { quantizeAdapter } from "./storage.ts";

const fixture = new Uint8Array(readFileSync(new URL("../../test/fixtures/homes/ort.onnx_adapter", import.meta.url)));

/** -2, -1.75, -1.5, …: what the fixture's parameters hold. */
function counted(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => i / 4 - 2);
}

function adapterOf(config: LoraConfig, tensors: Record<string, Tensor>): Adapter {
  return { config: resolveConfig(config), tensors: new Map(Object.entries(tensors)) };
}

const [fc1, fc2, embed, conv] = [
  adapterKeys("fc1"),
  adapterKeys("b.fc2"),
  adapterKeys("embed", "Embedding"),
  adapterKeys("conv"),
];
const small = adapterOf(
  { r: 2, loraAlpha: 3, targetModules: ["fc1", "b.fc2"] },
  {
    [fc1.a]: tensor("float32", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)),
    [fc1.b]: tensor("float32", [1, 2], Float32Array.of(10, 20)),
  },
);

function faultsOf(bytes: Uint8Array): readonly string[] {
  try {
    readOnnxAdapter(bytes, { where: "x" });
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    expect(error.code).toBe("adapter");
    expect(error.message).toMatch(/^x: /);
    return error.faults.map((fault) => fault.replace("x: ", ""));
  }
  return [];
}

describe("readOnnxAdapter", () => {
  it("reads what ONNX Runtime wrote", () => {
    const faults: string[] = [];
    const file = scanOnnxAdapter(fixture, faults);
    expect([faults, file?.adapterVersion, file?.modelVersion]).toEqual([[], 3, 7]);
    expect(file?.parameters.get("fc1.lora_A.weight")).toEqual(tensor("float32", [3, 2], counted(6)));
    const { config, tensors, storage } = readOnnxAdapter(fixture);
    expect(tensors.get(fc1.a)).toEqual(tensor("float32", [2, 3], Float32Array.of(-2, -1.5, -1, -1.75, -1.25, -0.75)));
    expect(tensors.get(fc2.a)).toEqual(tensor("float32", [1, 5], counted(5)));
    expect(tensors.get(fc2.b)).toEqual(tensor("float32", [4, 1], counted(4)));
    expect([...storage!].sort()).toEqual([
      [fc2.a, "float16"],
      [fc2.b, "float16"],
    ]);
    for (const { path, a } of modulesOf({ tensors })) {
      expect([scaleOf(config, path), config.rankPattern[path] ?? config.r]).toEqual([1, a.dims[0]]);
    }
  });

  it("leaves rank 0 out, and refuses a file of nothing else", () => {
    const off = new Map<string, Tensor>([
      ["off.lora_A.weight", zeros([3, 0])],
      ["off.lora_B.weight", zeros([0, 3])],
    ]);
    const file = (parameters: Map<string, Tensor>): Uint8Array =>
      encodeOnnxAdapter({ adapterVersion: 1, modelVersion: 1, parameters });
    expect(faultsOf(file(off))).toEqual(["expected parameters of a rank above 0, got none"]);
    const both = new Map([...adapterParameters(small), ...off]);
    expect(modulesOf(readOnnxAdapter(file(both))).map(({ path }) => path)).toEqual(["fc1"]);
  });

  it("tells apart paths of which one is the end of the other, and one that a dot would match", () => {
    const parameters = new Map<string, Tensor>();
    for (const [path, r] of [
      ["fc", 1],
      ["a.fc", 2],
      ["b.a.fc", 3],
      ["b.a_fc", 2],
      ["other", 2],
    ] as const) {
      parameters.set(`${path}.lora_A.weight`, tensor("float32", [4, r], counted(4 * r)));
      parameters.set(`${path}.lora_B.weight`, tensor("float32", [r, 5], counted(5 * r)));
    }
    const { config, tensors } = readOnnxAdapter(encodeOnnxAdapter({ adapterVersion: 1, modelVersion: 1, parameters }));
    const scales = modulesOf({ tensors }).map(({ path }) => scaleOf(config, path));
    expect(scales).toEqual([1, 1, 1, 1, 1]);
  });

  it("reports all faults of the parameters at once", () => {
    const parameters = new Map<string, Tensor>([
      ["a.lora_A.weight", tensor("float32", [2, 1], Float32Array.of(1, Number.NaN))],
      ["a.lora_B.weight", tensor("float32", [1, 1], Float32Array.of(Number.POSITIVE_INFINITY))],
      ["b.lora_A.weight", tensor("int32", [1, 1], Int32Array.of(1))],
      ["b.lora_B.weight", zeros([1, 1])],
      ["c.lora_A.quant.weight", tensor("int8", [2, 1], Int8Array.of(1, 2))],
      ["c.lora_A.quant.scale", zeros([2])],
      ["d.lora_A.weight", zeros([2, 3])],
      ["d.lora_B.weight", zeros([2, 3])],
      ["e.bias", zeros([1])],
      ["f.lora_A", zeros([1, 1])],
    ]);
    const faults = faultsOf(encodeOnnxAdapter({ adapterVersion: 1, modelVersion: 1, parameters }));
    expect(faults.slice(0, 6)).toEqual([
      '"e.bias": expected a name ending in .lora_A.weight or .lora_B.weight, got another',
      '"f.lora_A": expected a name ending in .lora_A.weight or .lora_B.weight, got another',
      '"a.lora_A": expected finite values, got NaN at 1',
      '"a.lora_B": expected finite values, got Infinity at 0',
      '"b.lora_A": expected float32, float16, bfloat16 or quantized int8, got int32',
      '"c.lora_A": expected int8 .quant.weight [columns, rows] and float32 .quant.scale [rows], got int8 [2,1] and float32 [2]',
    ]);
    expect(faults.some((fault) => fault.includes("d.lora_B.weight: expected [out, 3] as lora_A has rank 3"))).toBe(
      true,
    );
    const wide = writeOnnxAdapter(adapterOf({ r: 3 }, { [fc1.a]: zeros([3, 1]), [fc1.b]: zeros([1, 3]) }));
    expect(() => readOnnxAdapter(wide, { maxRank: 2 })).toThrow("expected a rank of at most 2, got 3; raise maxRank");
  });
});

describe("writeOnnxAdapter", () => {
  it("stores A as [in, r] and B as [r, out] with the scale in it", () => {
    expect(Object.fromEntries(adapterParameters(small))).toEqual({
      "fc1.lora_A.weight": tensor("float32", [3, 2], Float32Array.of(1, 4, 2, 5, 3, 6)),
      "fc1.lora_B.weight": tensor("float32", [2, 1], Float32Array.of(15, 30)),
    });
    const bytes = writeOnnxAdapter(small, { adapterVersion: 4, modelVersion: 5 });
    expect(new TextDecoder().decode(bytes.subarray(4, 8))).toBe("TORT");
    const file = scanOnnxAdapter(bytes, []);
    expect([file?.adapterVersion, file?.modelVersion]).toEqual([4, 5]);
    // Data is a view of the file: it lies at a multiple of its element's size.
    expect([...file!.parameters.values()].every(({ data }) => data.buffer === bytes.buffer)).toBe(true);
  });

  it("keeps Embeddings and Convs apart by their names and dimensions", () => {
    const adapter = adapterOf(
      { r: 1, loraAlpha: 1 },
      {
        [embed.a]: tensor("float32", [1, 3], counted(3)),
        [embed.b]: tensor("float32", [2, 1], counted(2)),
        [conv.a]: tensor("float32", [1, 2, 3], counted(6)),
        [conv.b]: tensor("float32", [4, 1, 1], counted(4)),
      },
    );
    expect([...adapterParameters(adapter)].map(([name, { dims }]) => [name, dims])).toEqual([
      ["embed.lora_embedding_A", [3, 1]],
      ["embed.lora_embedding_B", [1, 2]],
      ["conv.lora_A.weight", [1, 2, 3]],
      ["conv.lora_B.weight", [4, 1, 1]],
    ]);
    for (const dtype of ["float32", "int8"] as const) {
      const rounded = dtype === "int8" ? quantizeAdapter(adapter, dtype).adapter : adapter;
      expect(readOnnxAdapter(writeOnnxAdapter(adapter, { dtype })).tensors).toEqual(rounded.tensors);
    }
  });

  it("refuses what it cannot hold, all at once", () => {
    const bad = adapterOf(
      { r: 1, loraAlpha: 1 },
      {
        [fc1.a]: tensor("float32", [1, 1], Float32Array.of(70000)),
        [fc1.b]: tensor("float32", [1, 1], Float32Array.of(1)),
      },
    );
    expect(() => writeOnnxAdapter(bad, { dtype: "float16" })).toThrow(
      "fc1.lora_A: expected values that float16 can hold, got 70000 at 0",
    );
    const odd = adapterOf({ r: 2 }, { ...Object.fromEntries(small.tensors), [`${fc2.a}x`]: zeros([1]) });
    expect(() => writeOnnxAdapter(odd)).toThrow(LowrankError);
    const nan = adapterOf(
      { r: 1 },
      { [fc1.a]: tensor("float32", [1, 1], Float32Array.of(Number.NaN)), [fc1.b]: zeros([1, 1]) },
    );
    expect(() => writeOnnxAdapter(nan)).toThrow("expected finite values, got NaN at 0");
  });

  it("is read back as it was, for random adapters and each type", () => {
    const matrix = (rows: number, columns: number): fc.Arbitrary<Tensor<"float32">> =>
      fc
        .array(fc.float({ min: -100, max: 100, noNaN: true }), { minLength: rows * columns, maxLength: rows * columns })
        .map((values) => tensor("float32", [rows, columns], Float32Array.from(values)));
    const module = fc
      .tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }))
      .chain(([r, inFeatures, outFeatures]) => fc.tuple(matrix(r, inFeatures), matrix(outFeatures, r)));
    fc.assert(
      fc.property(
        fc.dictionary(fc.stringMatching(/^[a-z][a-z0-9.]{0,8}[a-z]$/), module, { minKeys: 1, maxKeys: 4 }),
        fc.constantFrom("float32", "float16", "bfloat16", "int8"),
        (modules, dtype) => {
          const tensors = Object.fromEntries(
            Object.entries(modules).flatMap(([path, [a, b]]) => {
              const keys = adapterKeys(path);
              return [
                [keys.a, a],
                [keys.b, b],
              ];
            }),
          );
          const ranks = Object.fromEntries(Object.entries(modules).map(([path, [a]]) => [path, a.dims[0]!]));
          const sorted = Object.entries(ranks).sort(([a], [b]) => b.length - a.length);
          const config = { rankPattern: Object.fromEntries(sorted), alphaPattern: Object.fromEntries(sorted) };
          const adapter = adapterOf(config, tensors);
          const rounded = dtype === "float32" ? adapter : quantizeAdapter(adapter, dtype).adapter;
          const read = readOnnxAdapter(writeOnnxAdapter(adapter, { dtype }));
          expect(read.tensors).toEqual(rounded.tensors);
          expect(read.storage).toEqual(rounded.storage);
          for (const path of Object.keys(modules)) expect(scaleOf(read.config, path)).toBe(1);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe("hostile files are refused", () => {
  /** A file of one parameter, with a 32-bit number replaced. Offsets: see encodeOnnxAdapter. */
  function patched(at: number, value: number): Uint8Array {
    const bytes = writeOnnxAdapter(small);
    new DataView(bytes.buffer).setUint32(at, value, true);
    return bytes;
  }
  const view = new DataView(writeOnnxAdapter(small).buffer);
  const table = 56 + view.getUint32(56, true); // of the first parameter
  const dims = table + 8 + view.getUint32(table + 8, true);
  const data = table + 16 + view.getUint32(table + 16, true);

  it.each<[string, Uint8Array, string]>([
    ["empty", new Uint8Array(0), "expected the header within 0 bytes"],
    ["seven bytes", new Uint8Array(7), "expected the header within 7 bytes"],
    ["another identifier", patched(4, 0x54524f55), 'expected the file identifier TORT, got "UORT"'],
    ["a root past the end", patched(0, 2 ** 32 - 1), "expected a table within"],
    ["a vtable before the file", patched(32, 2 ** 31 - 1), "expected a vtable within"],
    ["a vtable past the file", patched(32, 2 ** 31), "expected a vtable within"],
    ["an odd vtable", patched(8, 13 | (20 << 16)), "expected a vtable at 8, got sizes 13 and 20"],
    ["a table of no size", patched(8, 12), "expected a vtable at 8, got sizes 12 and 0"],
    [
      "a field outside its table",
      patched(12, 18 | (8 << 16)),
      "expected field 0 in its table of 20 bytes, got offset 18",
    ],
    ["format version 0", patched(36, 0), "format_version: expected 1, got 0"],
    ["format version 2", patched(36, 2), "format_version: expected 1, got 2"],
    ["a list longer than the file", patched(52, 2 ** 32 - 1), "a vector of 4294967295 elements within"],
    ["a parameter past the end", patched(56, 2 ** 32 - 1), "parameter 0: expected what an offset leads to within"],
    ["an offset of 0", patched(56, 0), "parameter 0: expected an offset at 56, got 0"],
    ["no name", patched(table + 4, 0), "parameter 0: expected an offset at"],
    ["a type that does not exist", patched(table + 12, 99), "expected the data_type of numbers, got 99"],
    ["a type of text", patched(table + 12, 8), "expected the data_type of numbers, got string"],
    ["a type of another size", patched(table + 12, 11), "expected 48 bytes for [3,2] of float64, got 24"],
    ["a negative dimension", patched(dims + 8, 2 ** 32 - 1), "expected dimensions from 0 to 2^53 - 1, got -"],
    ["a huge dimension", patched(dims + 8, 2 ** 30), "expected dimensions from 0 to 2^53 - 1, got 4611686018427387907"],
    ["a product that overflows", patched(dims + 8, 2 ** 20), "expected a shape of under 2^53 bytes"],
    ["ten dimensions", patched(dims, 10), "expected at most 8 dimensions, got 10"],
    ["data that is too short", patched(data, 20), "expected 24 bytes for [3,2] of float32, got 20"],
    ["data past the end", patched(data, 2 ** 31), "a vector of 2147483648 elements within"],
  ])("%s", (_, bytes, fault) => {
    expect(faultsOf(bytes).join("\n")).toContain(fault);
  });

  it("two parameters of one name, on the same data", () => {
    const bytes = writeOnnxAdapter(small);
    new DataView(bytes.buffer).setUint32(60, table - 60, true); // the second is the first
    expect(faultsOf(bytes)).toEqual([
      '"fc1.lora_A.weight": expected one parameter of this name, got two',
      '"fc1.lora_A.weight": its data overlaps another parameter\'s',
    ]);
  });

  it("any cut", () => {
    for (let length = 0; length < fixture.length; length += 4)
      expect(faultsOf(fixture.subarray(0, length))).not.toEqual([]);
  });

  it("any change of a byte gives an error of ours or an adapter, quickly", () => {
    for (const valid of [fixture, writeOnnxAdapter(small, { dtype: "int8" })]) {
      const change = fc.record({ at: fc.nat(valid.length - 1), to: fc.integer({ min: 0, max: 255 }) });
      fc.assert(
        fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
          const bytes = valid.slice();
          for (const { at, to } of changes) bytes[at] = to;
          faultsOf(bytes);
        }),
        { numRuns: 2000 },
      );
    }
  });
});
