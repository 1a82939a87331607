// mlx-lm's directories: what its layout says is read and written; what it has no form for is refused by name.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { adapterKeys, modulesOf } from "../lora/keys.ts";
import { scaleOf } from "../lora/scale.ts";
import { drawn } from "../lora/testing/models.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { readMlxAdapter, writeMlxAdapter } from "./mlx.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";
import { quantizeAdapter } from "./storage.ts";

const q0 = "model.layers.0.self_attn.q_proj";

/** A directory as mlx-lm's trainer leaves it, training options included. */
function directory(
  changes: Record<string, unknown> = {},
  tensors: Record<string, Tensor> = layer(q0),
): Record<string, Uint8Array> {
  const config = {
    batch_size: 4,
    fine_tune_type: "lora",
    learning_rate: 1e-5,
    lora_parameters: { rank: 2, dropout: 0.05, scale: 20.0, keys: ["self_attn.q_proj"] },
    lr_schedule: null,
    model: "mlx-community/some-model",
    num_layers: 1,
    ...changes,
  };
  return {
    "adapter_config.json": new TextEncoder().encode(JSON.stringify(config, null, 4)),
    "adapters.safetensors": writeSafetensors(new Map(Object.entries(tensors)), { format: "mlx" }),
  };
}

function layer(path: string): Record<string, Tensor> {
  return {
    [`${path}.lora_a`]: tensor("float32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6)),
    [`${path}.lora_b`]: tensor("float32", [2, 1], Float32Array.of(7, 8)),
  };
}

function faultsOf(files: Record<string, Uint8Array>, maxRank?: number): readonly string[] {
  try {
    readMlxAdapter(files, { where: "x", ...(maxRank !== undefined && { maxRank }) });
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    expect(error.code).toBe("adapter");
    return error.faults.map((fault) => fault.replace("x: ", ""));
  }
  return [];
}

/** s B A of each module, by path. */
function updates({ config, tensors }: Adapter): Map<string, number[]> {
  return new Map(
    modulesOf({ tensors }).map(({ path, a, b }) => {
      const [r, inFeatures] = [a.dims[0]!, a.dims[1]!];
      const scale = scaleOf(config, path);
      const product = Array.from({ length: b.dims[0]! * inFeatures }, (_, i) => {
        const [row, column] = [Math.floor(i / inFeatures), i % inFeatures];
        let sum = 0;
        for (let k = 0; k < r; k++) sum += b.data[row * r + k]! * a.data[k * inFeatures + column]!;
        return scale * sum;
      });
      return [path, product];
    }),
  );
}

function adapterOf(config: LoraConfig, tensors: Record<string, Tensor>): Adapter {
  return { config: resolveConfig(config), tensors: new Map(Object.entries(tensors)) };
}

describe("readMlxAdapter", () => {
  it("reads what mlx-lm's trainer writes", () => {
    const { config, tensors, storage } = readMlxAdapter(directory());
    const keys = adapterKeys(q0);
    expect(Object.fromEntries(tensors)).toEqual({
      [keys.a]: tensor("float32", [2, 3], Float32Array.of(1, 3, 5, 2, 4, 6)),
      [keys.b]: tensor("float32", [1, 2], Float32Array.of(7, 8)),
    });
    expect(config).toMatchObject({
      r: 2,
      loraAlpha: 40,
      targetModules: [q0],
      baseModelNameOrPath: "mlx-community/some-model",
    });
    expect([scaleOf(config, q0), config.loraDropout, storage]).toEqual([20, 0.05, undefined]);
  });

  it("takes embeddings by their names, or as it is told", () => {
    const files = directory({}, { ...layer("model.embed_tokens"), ...layer("odd") });
    const keysOf = (adapter: Adapter): string[] =>
      [...adapter.tensors.keys()].filter((key) => key.includes("_embedding_A"));
    expect(keysOf(readMlxAdapter(files))).toEqual([adapterKeys("model.embed_tokens", "Embedding").a]);
    expect(keysOf(readMlxAdapter(files, { isEmbedding: (path) => path === "odd" }))).toEqual([
      adapterKeys("odd", "Embedding").a,
    ]);
  });

  it("reports the faults of both files at once", () => {
    const bad = {
      "a.lora_a": tensor("float32", [1, 1], Float32Array.of(Number.NaN)),
      "a.lora_b": tensor("int32", [1, 1], Int32Array.of(1)),
      "b.m": zeros([2]),
      "c.lora_a": zeros([2, 3, 4]),
      "d.lora_a_scales": zeros([2]),
    };
    expect(faultsOf(directory({ fine_tune_type: "dora", lora_parameters: { rank: 2 } }, bad))).toEqual([
      'adapter_config.json: fine_tune_type: expected "lora", got "dora"; only LoRA adapters can be read',
      "adapter_config.json: lora_parameters scale: expected a number above 0, got nothing",
      'adapters.safetensors: "a.lora_a": expected finite values, got NaN at 0',
      'adapters.safetensors: "b.m": expected a name ending in .lora_a or .lora_b, got DoRA\'s magnitude, which is not supported',
      'adapters.safetensors: "c.lora_a": expected a matrix, got [2,3,4] (the layers of a mixture of experts are not supported)',
      'adapters.safetensors: "d.lora_a_scales": expected a name ending in .lora_a or .lora_b, got a quantized adapter, which is not supported',
      'adapters.safetensors: "a.lora_b": expected float32, float16 or bfloat16, got int32',
      `adapters.safetensors: ${adapterKeys("a").a}: expected ${adapterKeys("a").b} with it, got none`,
    ]);
    expect(faultsOf({})).toEqual([
      "adapter_config.json: expected this file, got none",
      "adapters.safetensors: expected this file, got none",
    ]);
    expect(faultsOf(directory(), 1)).toEqual([
      `adapters.safetensors: "${q0}": expected a rank of at most 1, got 2; raise maxRank`,
    ]);
    expect(faultsOf(directory({ lora_parameters: [] }))).toEqual([
      "adapter_config.json: lora_parameters: expected an object, got []",
    ]);
    expect(faultsOf({ ...directory(), "adapter_config.json": new Uint8Array([0x7b, 0xff]) })[0]).toContain("UTF-8");
  });
});

describe("writeMlxAdapter", () => {
  it("writes the layout, the scale and the modules below each layer", () => {
    const paths = ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.experts.3.w1", "lm_head"];
    const tensors = Object.fromEntries(
      paths.flatMap((path) => {
        const { a, b } = adapterKeys(path);
        return [[a, drawn(a, 2, 3)] as const, [b, drawn(b, 4, 2)] as const];
      }),
    );
    const adapter = adapterOf({ r: 2, loraAlpha: 8, baseModelNameOrPath: "base", loraDropout: 0.1 }, tensors);
    const files = writeMlxAdapter(adapter);
    expect(JSON.parse(new TextDecoder().decode(files.get("adapter_config.json")))).toEqual({
      fine_tune_type: "lora",
      lora_parameters: { dropout: 0.1, keys: ["lm_head", "mlp.experts.3.w1", "self_attn.q_proj"], rank: 2, scale: 4 },
      model: "base",
      num_layers: -1,
    });
    const { tensors: stored, metadata } = readSafetensors(files.get("adapters.safetensors")!, "x");
    expect([...metadata]).toEqual([["format", "mlx"]]);
    const a = drawn(adapterKeys("lm_head").a, 2, 3).data;
    expect(stored.get("lm_head.lora_a")).toEqual(
      tensor("float32", [3, 2], Float32Array.of(a[0]!, a[3]!, a[1]!, a[4]!, a[2]!, a[5]!)),
    );
    const { config: _, ...read } = readMlxAdapter(files);
    expect(read).toEqual({ tensors: adapter.tensors });
  });

  it("keeps half types, and refuses what mlx-lm has no form for", () => {
    const { a, b } = adapterKeys("fc");
    const plain = adapterOf({ r: 1, loraAlpha: 1 }, { [a]: drawn("a", 1, 2), [b]: drawn("b", 2, 1) });
    const half = quantizeAdapter(plain, "bfloat16").adapter;
    const read = readMlxAdapter(writeMlxAdapter(half));
    expect([read.tensors, new Set(read.storage?.values())]).toEqual([half.tensors, new Set(["bfloat16"])]);
    expect(() => writeMlxAdapter(quantizeAdapter(plain, "int8").adapter)).toThrow("got int8; write an .onnx_adapter");
    const conv = adapterOf({ r: 1, loraAlpha: 1 }, { [a]: zeros([1, 2, 3]), [b]: zeros([2, 1, 1]) });
    expect(() => writeMlxAdapter(conv)).toThrow('"fc": mlx-lm has no LoRA for a Conv');
    expect(() => writeMlxAdapter(adapterOf({}, {}))).toThrow("expected tensors, got none");
  });

  it("keeps every update, for random ranks and scales", () => {
    const ranks = fc.array(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 9 })), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(ranks, fc.boolean(), (modules, useRslora) => {
        const rankPattern = Object.fromEntries(modules.map(([r], i) => [`m${i}`, r]));
        const alphaPattern = Object.fromEntries(modules.map(([, alpha], i) => [`m${i}`, alpha]));
        const tensors = Object.fromEntries(
          modules.flatMap(([r], i) => {
            const { a, b } = adapterKeys(`m${i}`);
            return [[a, drawn(a, r, 3)] as const, [b, drawn(b, 2, r)] as const];
          }),
        );
        const adapter = adapterOf({ rankPattern, alphaPattern, useRslora }, tensors);
        const expected = updates(adapter);
        for (const [path, update] of updates(readMlxAdapter(writeMlxAdapter(adapter)))) {
          for (const [i, value] of update.entries()) expect(value).toBeCloseTo(expected.get(path)![i]!, 5);
        }
      }),
      { numRuns: 50 },
    );
  });
});
