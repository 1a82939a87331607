// Adapters that PEFT 0.21 wrote are read and written again byte for byte; fresh ones get the file that PEFT would write;
// what is damaged, hostile or not supported is refused by name.
import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { adapterKeys, modulesOf } from "../lora/keys.ts";
import { rankOf, scaleOf } from "../lora/scale.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { RawNumber } from "./json.ts";
import { type ReadAdapterOptions, readAdapter, readAdapters, writeAdapter, writeAdapters } from "./peft.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";

const configName = "adapter_config.json";
const weightsName = "adapter_model.safetensors";

function load(directory: string): Map<string, Uint8Array> {
  const url = new URL(`../../test/fixtures/${directory}/`, import.meta.url);
  return new Map([configName, weightsName].map((name) => [name, new Uint8Array(readFileSync(new URL(name, url)))]));
}

function text(bytes: Uint8Array | undefined): string {
  return new TextDecoder().decode(bytes);
}

const minimal = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: ["fc"] };

function fcTensors(r = 2): Map<string, Tensor> {
  const { a, b } = adapterKeys("fc");
  return new Map<string, Tensor>([
    [a, tensor("float32", [r, 3], new Float32Array(r * 3).fill(0.5))],
    [b, tensor("float32", [4, r], new Float32Array(r * 4).fill(-1))],
  ]);
}

/** The two files of an adapter on "fc"; `config` as JSON text or as changes to a minimal one. */
function files(config: string | Record<string, unknown>, tensors = fcTensors()): Map<string, Uint8Array> {
  const json = typeof config === "string" ? config : JSON.stringify({ ...minimal, ...config });
  return new Map([
    [configName, new TextEncoder().encode(json)],
    [weightsName, writeSafetensors(tensors, { format: "pt" })],
  ]);
}

function faultsOf(input: Parameters<typeof readAdapter>[0], options: ReadAdapterOptions = {}): readonly string[] {
  try {
    readAdapter(input, options);
  } catch (error) {
    expect(error).toBeInstanceOf(LowrankError);
    if (!(error instanceof LowrankError)) throw error;
    expect(error.code).toBe("adapter");
    return error.faults.map((fault) => fault.replace(/^adapter: /, ""));
  }
  return [];
}

const fresh: AdapterConfig = {
  r: 2,
  loraAlpha: 4,
  targetModules: ["fc"],
  excludeModules: null,
  useRslora: false,
  rankPattern: {},
  alphaPattern: {},
  fanInFanOut: false,
  initLoraWeights: true,
  loraDropout: 0,
  layersToTransform: null,
  layersPattern: null,
  useDora: false,
  loraBias: false,
  bias: "none",
  modulesToSave: null,
  trainableTokenIndices: null,
  baseModelNameOrPath: null,
  taskType: null,
  extra: {},
};

describe("PEFT's own adapters", () => {
  it.each(["golden/gpt2/adapter", "golden/distilbert/adapter", "adapter/peft-mlp", "homes/peft-half"])(
    "%s is written as it was read",
    (name) => {
      const warnings: string[] = [];
      const original = load(name);
      const written = writeAdapter(readAdapter(original, { onWarning: (warning) => warnings.push(warning) }));
      expect(text(written.get(configName))).toBe(text(original.get(configName)));
      expect(Buffer.compare(written.get(weightsName)!, original.get(weightsName)!)).toBe(0);
      expect(warnings).toEqual([]);
    },
  );

  it("golden/distilbert: patterns, a regular expression as target, rsLoRA", () => {
    const { config, tensors } = readAdapter(load("golden/distilbert/adapter"));
    expect(config).toMatchObject({
      r: 2,
      loraAlpha: 2,
      targetModules: ".*\\.(q_lin|lin1|lin2)",
      useRslora: true,
      rankPattern: { "layer.0.attention.q_lin": 5 },
      alphaPattern: { "layer.0.attention.q_lin": 7 },
      initLoraWeights: false,
      fanInFanOut: false,
    });
    const modules = modulesOf({ tensors });
    expect(modules).toHaveLength(6);
    const [first] = modules;
    expect(first?.path).toBe("distilbert.transformer.layer.0.attention.q_lin");
    expect(first?.a.dims[0]).toBe(5);
    expect(scaleOf(config, first!.path)).toBeCloseTo(7 / Math.sqrt(5), 15);
  });

  it("golden/gpt2: fan_in_fan_out, task type, and the rest in extra", () => {
    const { config, tensors } = readAdapter(load("golden/gpt2/adapter"));
    expect(config).toMatchObject({ r: 4, loraAlpha: 8, fanInFanOut: true, taskType: "CAUSAL_LM" });
    expect(config.targetModules).toEqual(["c_attn", "c_proj"]);
    expect(config.extra).toMatchObject({ lora_dropout: new RawNumber("0.0"), peft_version: "0.21.0" });
    expect(tensors).toEqual(readSafetensors(load("golden/gpt2/adapter").get(weightsName)!, "x").tensors);
  });
});

const variants = new URL("../../test/fixtures/peft/", import.meta.url);

describe("the variants", () => {
  const names = readdirSync(variants, { withFileTypes: true }).filter(
    (entry) => entry.isDirectory() && entry.name !== "named",
  );

  it.each(names.map(({ name }) => name))("%s is written as it was read", (name) => {
    const original = load(`peft/${name}/adapter`);
    const warnings: string[] = [];
    const written = writeAdapter(readAdapter(original, { onWarning: (warning) => warnings.push(warning) }));
    expect(text(written.get(configName))).toBe(text(original.get(configName)));
    expect(Buffer.compare(written.get(weightsName)!, original.get(weightsName)!)).toBe(0);
    expect(warnings).toEqual([]);
  });

  it("several adapters in one directory are read by their names", () => {
    const names = ["", "other/"].flatMap((folder) => [configName, weightsName].map((name) => folder + name));
    const directory = new Map(
      names.map((name) => [name, new Uint8Array(readFileSync(new URL(`named/${name}`, variants)))]),
    );
    const adapters = readAdapters(directory);
    expect([...adapters].map(([name, { config }]) => [name, config.r, config.targetModules])).toEqual([
      ["default", 2, ["proj"]],
      ["other", 3, ["conv"]],
    ]);
    directory.set(`other/${weightsName}`, new Uint8Array(3));
    expect(() => readAdapters(directory)).toThrow(/other\/adapter: adapter_model\.safetensors: |other\//);
    expect(() => readAdapters(new Map())).toThrow(/expected adapter_config\.json, got no file of that name/);
  });
});

describe("writeAdapters", () => {
  const adapter = readAdapter(load("adapter/peft-mlp"));

  it("puts the one called default on top, and the others in folders", () => {
    const files = writeAdapters(
      new Map([
        ["other", adapter],
        ["default", adapter],
      ]),
    );
    expect([...files.keys()].sort()).toEqual([configName, weightsName, `other/${configName}`, `other/${weightsName}`]);
    expect([...readAdapters(files).keys()].sort()).toEqual(["default", "other"]);
  });

  it("refuses names that are no folder's, with all other faults", () => {
    const names = ["", "..", "a/b", "a\\b", "C:", "end.", "nul\u0000", configName];
    const broken = { ...adapter, tensors: new Map<string, Tensor>() };
    const faults = caught(() =>
      writeAdapters(new Map([...names.map((name) => [name, adapter] as const), ["x", broken]])),
    );
    expect(faults).toHaveLength(names.length + 1);
    expect(faults.at(-1)).toMatch(/^x\/.*expected tensors, got none/);
    expect(() => writeAdapters(new Map())).toThrow("expected adapters, got none");
  });

  function caught(run: () => unknown): readonly string[] {
    try {
      run();
    } catch (error) {
      if (error instanceof LowrankError) return error.faults;
    }
    return [];
  }
});

describe("writeAdapter", () => {
  it("names no start that PEFT would refuse to load", () => {
    const { tensors } = readAdapter(load("adapter/peft-mlp"));
    const start = (initLoraWeights: boolean | string, loraBias = false): unknown => {
      const beside = [...tensors].filter(([key]) => key.endsWith("lora_B.weight"));
      const biases = beside.map(([key, { dims }]) => [key.replace("weight", "bias"), zeros([dims[0]!])] as const);
      const own = loraBias ? new Map([...tensors, ...biases]) : tensors;
      const { config } = readAdapter(load("adapter/peft-mlp"));
      const written = writeAdapter({ config: { ...config, initLoraWeights, loraBias }, tensors: own });
      return JSON.parse(text(written.get(configName))).init_lora_weights;
    };
    expect([start("gaussian"), start("normal"), start(false)]).toEqual(["gaussian", true, false]);
    expect([start("gaussian", true), start(false, true)]).toEqual([true, false]);
  });

  it("gives a fresh adapter the file that PEFT would write", () => {
    const original = load("adapter/peft-mlp");
    const config: AdapterConfig = {
      ...fresh,
      loraAlpha: 3,
      useRslora: true,
      targetModules: ["2", "0"],
      loraDropout: 1e-5,
      extra: {
        auto_mapping: { parent_library: "torch.nn.modules.container", base_model_class: "Sequential" },
      },
    };
    const { tensors } = readAdapter(original);
    const written = writeAdapter({ config, tensors });
    expect(text(written.get(configName))).toBe(text(original.get(configName)));
    expect(Buffer.compare(written.get(weightsName)!, original.get(weightsName)!)).toBe(0);
  });

  it("expands all-linear, and writes for PEFT what only we call normal", () => {
    const config: AdapterConfig = { ...fresh, targetModules: "all-linear", initLoraWeights: "normal" };
    const written: unknown = JSON.parse(text(writeAdapter({ config, tensors: fcTensors() }).get(configName)));
    expect(written).toMatchObject({
      target_modules: ["fc"],
      init_lora_weights: true,
      peft_type: "LORA",
      lora_dropout: 0,
    });
  });

  it("refuses what the reader would", () => {
    const [a, b] = [...fcTensors().values()];
    const { a: keyA, b: keyB } = adapterKeys("fc");
    const bad = new Map<string, Tensor>([
      [keyA, tensor("float32", [2, 3], Float32Array.of(1, 2, Number.NaN, 4, 5, 6))],
      [keyB, b!],
    ]);
    expect(() => writeAdapter({ config: fresh, tensors: bad })).toThrow("expected finite values, got NaN at 2");
    expect(() => writeAdapter({ config: { ...fresh, r: 3 }, tensors: fcTensors() })).toThrow("expected rank 3 as r");
    expect(() => writeAdapter({ config: { ...fresh, loraAlpha: Number.NaN }, tensors: fcTensors() })).toThrow(
      "loraAlpha",
    );
    expect(() => writeAdapter({ config: fresh, tensors: new Map([[keyA, a!]]) })).toThrow(`expected ${keyB} with it`);
    expect(() => writeAdapter({ config: fresh, tensors: new Map() })).toThrow("expected tensors, got none");
  });

  it("is read back as it was, for random adapters", () => {
    const segment = fc.stringMatching(/^[a-z0-9_]{1,8}$/);
    const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((segments) => segments.join("."));
    const value = fc.float({ noNaN: true, noDefaultInfinity: true });
    const dim = fc.integer({ min: 1, max: 4 });
    const adapters = fc
      .record({
        paths: fc.uniqueArray(path, { minLength: 1, maxLength: 4 }),
        r: dim,
        values: fc.array(value, { minLength: 16, maxLength: 16 }),
        sizes: fc.tuple(dim, dim),
        loraAlpha: fc.double({ noNaN: true, noDefaultInfinity: true }).filter((alpha) => !Object.is(alpha, -0)),
        name: fc.option(fc.string({ unit: "binary" })),
        useRslora: fc.boolean(),
        extra: fc.dictionary(
          fc.stringMatching(/^x_[a-z]*$/),
          fc.constantFrom(null, true, 1, 0.25, "é", ["a"], { b: { c: [] } }),
        ),
      })
      .map(({ paths, r, values, sizes: [inputs, outputs], name, ...rest }): Adapter => {
        const tensors = new Map<string, Tensor>();
        for (const each of paths) {
          const data = Float32Array.from(values);
          tensors.set(adapterKeys(each).a, tensor("float32", [r, inputs], data.slice(0, r * inputs)));
          tensors.set(adapterKeys(each).b, tensor("float32", [outputs, r], data.slice(0, r * outputs)));
        }
        return { config: { ...fresh, ...rest, r, targetModules: paths, baseModelNameOrPath: name }, tensors };
      });
    fc.assert(
      fc.property(adapters, (adapter) => {
        const written = writeAdapter(adapter);
        const { config, tensors } = readAdapter(written);
        expect({ ...config, extra: {} }).toEqual({ ...adapter.config, extra: {} });
        expect(config.extra).toMatchObject(adapter.config.extra);
        expect(Object.fromEntries(tensors)).toEqual(Object.fromEntries(adapter.tensors));
        expect(writeAdapter({ config, tensors })).toEqual(written);
      }),
    );
  });
});

describe("readAdapter", () => {
  it("takes PEFT's defaults for what is absent", () => {
    const config = { peft_type: "LORA", target_modules: ["fc"] };
    expect(readAdapter(files(JSON.stringify(config), fcTensors(8))).config).toEqual({ ...fresh, r: 8, loraAlpha: 8 });
    const nulls = { ...config, rank_pattern: null, alpha_pattern: null, use_rslora: null, fan_in_fan_out: null };
    expect(readAdapter(files(JSON.stringify(nulls), fcTensors(8))).config).toEqual({ ...fresh, r: 8, loraAlpha: 8 });
  });

  it("takes files as a plain object or a Map, and leaves others alone", () => {
    const map = files({});
    map.set("README.md", Uint8Array.of(1));
    expect(readAdapter(Object.fromEntries(map))).toEqual(readAdapter(map));
    expect(readAdapter(map).config).toEqual(fresh);
  });

  it("warns of unknown keys and keeps them, and of tensors that PEFT would not load", () => {
    const warnings: string[] = [];
    const input = files(`{"peft_type":"LORA","r":2,"target_modules":["other"],"zeta":1.50,"new":{"b":1e3,"a":[]}}`);
    const adapter = readAdapter(input, { where: "my/adapter", onWarning: (warning) => warnings.push(warning) });
    expect(warnings).toEqual([
      'my/adapter: key "zeta" is not known: it is kept, and has no effect',
      'my/adapter: key "new" is not known: it is kept, and has no effect',
      'my/adapter: "fc" has tensors, but target_modules does not name it: PEFT would not load them',
      'my/adapter: target_modules names "other", which has no tensors: it stays as the base has it',
    ]);
    const written = text(writeAdapter(adapter).get(configName));
    expect(written).toContain('"zeta": 1.50\n}');
    expect(written).toContain('"new": {\n    "a": [],\n    "b": 1e3\n  },');
  });

  it("names the adapted modules where the file names none", () => {
    const warnings: string[] = [];
    const { config } = readAdapter(files({ target_modules: null }), { onWarning: (warning) => warnings.push(warning) });
    expect(config.targetModules).toEqual(["fc"]);
    expect(warnings[0]).toContain("target_modules names nothing");
  });

  it("makes float32 of float16 and bfloat16, exactly", () => {
    const { a, b } = adapterKeys("fc");
    const tensors = new Map<string, Tensor>([
      [a, tensor("float16", [2, 3], Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555))],
      [b, tensor("bfloat16", [1, 2], Uint16Array.of(0x3f80, 0xbf01))],
    ]);
    const adapter = readAdapter(files({}, tensors));
    expect(adapter.tensors.get(a)).toEqual(
      tensor("float32", [2, 3], Float32Array.of(1, -2, 2 ** -24, 65504, -0, 0.333251953125)),
    );
    expect(adapter.tensors.get(b)).toEqual(tensor("float32", [1, 2], Float32Array.of(1, -0.50390625)));
  });

  it("keeps the order of patterns, whole numbers included", () => {
    const json = `{"peft_type":"LORA","r":1,"target_modules":["0"],"rank_pattern":{"(1|0)":2,"0":3,"10":4}}`;
    const { a, b } = adapterKeys("net.0");
    const tensors = new Map<string, Tensor>([
      [a, zeros([2, 3])],
      [b, zeros([4, 2])],
    ]);
    const adapter = readAdapter(files(json, tensors));
    expect(rankOf(adapter.config, "net.0")).toBe(2);
    expect(rankOf(adapter.config, "net.10")).toBe(4);
    expect(rankOf(readAdapter(writeAdapter(adapter)).config, "net.0")).toBe(2);
    const sorted = { "10": 2, "2": 2, a: 2 };
    const written = writeAdapter({ config: { ...fresh, rankPattern: sorted }, tensors: fcTensors() });
    expect(text(written.get(configName))).toContain('"rank_pattern": {\n    "10": 2,\n    "2": 2,\n    "a": 2\n  }');
  });

  it("takes EVA, orthogonal and Gaussian adapters, whose base is the original one", () => {
    for (const name of ["eva", "orthogonal", "gaussian"]) {
      expect(readAdapter(files({ init_lora_weights: name })).config.initLoraWeights).toBe(name);
    }
  });
});

describe("refused", () => {
  it.each<[Record<string, unknown>, string]>([
    [{ peft_type: "LOHA" }, 'peft_type: expected "LORA", got "LOHA"; only LoRA adapters can be read'],
    [{ peft_type: "lora" }, 'peft_type: expected "LORA", got "lora"; only LoRA adapters can be read'],
    [{ peft_type: undefined }, 'peft_type: expected "LORA", got nothing; only LoRA adapters can be read'],
    [{ r: 0 }, "r: expected a positive whole number, got 0"],
    [{ r: -1 }, "r: expected a positive whole number, got -1"],
    [{ r: 1.5 }, "r: expected a positive whole number, got 1.5"],
    [{ r: "2" }, 'r: expected a positive whole number, got "2"'],
    [{ r: null }, "r: expected a positive whole number, got null"],
    [{ r: 5000 }, "r: expected a rank of at most 4096, got 5000; raise maxRank"],
    [{ lora_alpha: "1" }, 'lora_alpha: expected a finite number, got "1"'],
    [
      { target_modules: [1] },
      "target_modules: expected a list of names, a regular expression or null, got a list of 1",
    ],
    [{ exclude_modules: {} }, "exclude_modules: expected a list of names, a regular expression or null, got {}"],
    [{ use_rslora: 1 }, "use_rslora: expected true or false, got 1"],
    [{ fan_in_fan_out: "no" }, 'fan_in_fan_out: expected true or false, got "no"'],
    [{ task_type: 1 }, "task_type: expected a string or null, got 1"],
    [{ rank_pattern: [] }, "rank_pattern: expected an object, got []"],
    [{ rank_pattern: { x: 0 } }, 'rank_pattern "x": expected a positive whole number, got 0'],
    [
      { rank_pattern: { "(": 1 } },
      'rank_pattern "(": expected a regular expression that JavaScript can read, got another',
    ],
    [{ alpha_pattern: { x: null } }, 'alpha_pattern "x": expected a finite number, got null'],
    [{ bias: "some" }, 'bias: expected "none", "all" or "lora_only", got "some"'],
    [{ use_dora: 1 }, "use_dora: expected true or false, got 1"],
    [{ modules_to_save: "head" }, 'modules_to_save: expected a list of names or null, got "head"'],
    [
      { trainable_token_indices: { emb: [1, 1] } },
      'trainable_token_indices "emb": expected a list of distinct row numbers, got a list of 2',
    ],
    [
      { trainable_token_indices: [-1] },
      "trainable_token_indices: expected a list of distinct row numbers, got a list of 1",
    ],
    [
      { init_lora_weights: "magic" },
      'init_lora_weights: expected true, false, "gaussian", "orthogonal", "eva", "pissa" or "olora", got "magic"',
    ],
    ...["pissa_niter_16", "corda", "loftq", "lora_ga"].map((name): [Record<string, unknown>, string] => [
      { init_lora_weights: name },
      `init_lora_weights: "${name}" is not supported, as its base model is not the original one; save it with PEFT as plain LoRA (path_initial_model_for_weight_conversion)`,
    ]),
    ...Object.entries({
      ...{ use_qalora: true, ensure_weight_tying: true, layer_replication: [[0, 4]] },
      ...{
        target_parameters: ["w"],
        alora_invocation_tokens: [1],
      },
      ...{
        megatron_config: {},
        arrow_config: {},
        kasa_config: {},
        monteclora_config: {},
        velora_config: {},
        use_bdlora: {},
      },
    }).map(([key, value]): [Record<string, unknown>, string] => [
      { [key]: value },
      `${key}: not supported, got ${value === true ? "true" : Array.isArray(value) ? "a list of 1" : "{}"}; save the adapter without it`,
    ]),
  ])("%o", (config, fault) => {
    expect(faultsOf(files(config))).toEqual([`${configName}: ${fault}`]);
  });

  it("configurations that are no such thing", () => {
    const encode = (json: string): readonly string[] => faultsOf(files(json));
    expect(encode("")[0]).toBe(`${configName}: expected JSON: expected a value at character 0, got the end`);
    expect(encode("[]")).toEqual([`${configName}: expected a JSON object, got []`]);
    expect(encode('{"peft_type":"LORA","r":2,"r":2}')).toEqual([
      `${configName}: duplicate key "r": each may be there once`,
    ]);
    expect(encode('{"peft_type":"LORA","r":2,"lora_alpha":1e999}')[0]).toContain("expected a finite number, got 1e999");
    expect(encode('{"peft_type":"LORA","r":2.0}')[0]).toContain("expected a positive whole number, got 2.0");
    expect(encode('{"peft_type":"LORA","lora_alpha":NaN}')[0]).toContain(
      "expected JSON: expected a value at character 33",
    );
    const bytes = files({});
    bytes.set(configName, Uint8Array.of(0xff));
    expect(faultsOf(bytes)).toEqual([`${configName}: expected UTF-8 text, got other bytes`]);
    bytes.set(configName, new Uint8Array(4_000_001));
    expect(faultsOf(bytes)).toEqual([`${configName}: expected at most 4000000 bytes, got 4000001`]);
  });

  it("missing files, with the name of what is there instead", () => {
    expect(faultsOf(new Map())).toEqual([
      `${configName}: expected this file, got none`,
      `${weightsName}: expected this file, got none`,
    ]);
    const pickled = { [configName]: files({}).get(configName)!, "adapter_model.bin": Uint8Array.of(1) };
    expect(faultsOf(pickled)[0]).toContain("got adapter_model.bin, which can run code");
  });

  it("tensors that are not those of the configuration", () => {
    const { a, b } = adapterKeys("fc");
    expect(faultsOf(files({ r: 3 }))).toEqual([
      `${weightsName}: "${a}": expected rank 3 as r and rank_pattern have it, got shape [2, 3]`,
    ]);
    expect(faultsOf(files({ rank_pattern: { fc: 1 } }))[0]).toContain("expected rank 1 as r and rank_pattern have it");
    const nan = fcTensors().set(b, tensor("float32", [1, 2], Float32Array.of(0, Number.NEGATIVE_INFINITY)));
    expect(faultsOf(files({}, nan))[0]).toBe(
      `${weightsName}: "${b}": expected finite values, got -Infinity at 1; the training may have diverged`,
    );
    const half = fcTensors().set(b, tensor("float16", [1, 2], Uint16Array.of(0, 0x7c01)));
    expect(faultsOf(files({}, half))[0]).toContain("got NaN at 1");
    const double = fcTensors().set(b, tensor("float64", [1, 2], new Float64Array(2)));
    expect(faultsOf(files({}, double))[0]).toBe(
      `${weightsName}: "${b}": expected float32, float16 or bfloat16, got float64; convert it`,
    );
    expect(faultsOf(files({}, new Map()))).toEqual([`${weightsName}: expected tensors, got none`]);
  });

  it("what the configuration asks for and the tensors lack, and what they have without it", () => {
    const extra = (entries: Record<string, Tensor>): Map<string, Tensor> =>
      new Map([...fcTensors(), ...Object.entries(entries)]);
    const fc = "base_model.model.fc";
    expect(faultsOf(files({ use_dora: true }))).toEqual([
      `${weightsName}: "fc": expected lora_magnitude_vector as use_dora is true, got none`,
    ]);
    expect(faultsOf(files({ lora_bias: true }))).toEqual([
      `${weightsName}: "fc": expected lora_B.bias as lora_bias is true, got none`,
    ]);
    expect(faultsOf(files({ use_dora: true, lora_bias: true }))[0]).toBe(
      `${configName}: lora_bias: expected false with use_dora, got true`,
    );
    expect(faultsOf(files({}, extra({ [`${fc}.lora_magnitude_vector`]: zeros([4]) })))).toEqual([
      `${weightsName}: "fc": expected no lora_magnitude_vector as use_dora is false, got one`,
    ]);
    expect(faultsOf(files({ use_dora: true }, extra({ [`${fc}.lora_magnitude_vector`]: zeros([3]) })))).toEqual([
      `${weightsName}: ${fc}.lora_magnitude_vector: expected [4], got [3]`,
    ]);
    const delta = "base_model.model.emb.token_adapter.trainable_tokens_delta";
    expect(faultsOf(files({ trainable_token_indices: [1, 2] }))).toEqual([
      `${weightsName}: trainable_token_indices: expected trainable_tokens_delta, got none`,
    ]);
    expect(faultsOf(files({ trainable_token_indices: { emb: [1, 2] } }, extra({ [delta]: zeros([3, 5]) })))).toEqual([
      `${weightsName}: "${delta}": expected [2, width], got [3, 5]`,
    ]);
    expect(faultsOf(files({}, extra({ [delta]: zeros([3, 5]) })))).toEqual([
      `${weightsName}: "${delta}": expected trainable_token_indices for "emb", got none`,
    ]);
  });

  it("tells of tensors of the base itself", () => {
    const warnings: string[] = [];
    const key = "base_model.model.lm_head.weight";
    const tensors = new Map<string, Tensor>([...fcTensors(), [key, zeros([2, 2])]]);
    expect(readAdapter(files({}, tensors), { onWarning: (warning) => warnings.push(warning) }).tensors.has(key)).toBe(
      true,
    );
    expect(warnings).toEqual([
      `adapter: "${key}" is of the base itself: merging takes it, and sessions expect that the base has the same`,
    ]);
  });

  it("leaves out the copies of biases that PEFT stores beside saved modules", () => {
    const warnings: string[] = [];
    const head = "base_model.model.head";
    const keys = ["dense.bias", "modules_to_save.default.dense.bias", "original_module.dense.bias"].map(
      (key) => `${head}.${key}`,
    );
    const tensors = new Map<string, Tensor>([...fcTensors(), ...keys.map((key) => [key, zeros([2])] as const)]);
    const adapter = readAdapter(files({ bias: "all", modules_to_save: ["head"] }, tensors), {
      onWarning: (warning) => warnings.push(warning),
    });
    expect([...adapter.tensors.keys()].filter((key) => key.startsWith(head))).toEqual([keys[0]]);
    expect(warnings).toHaveLength(2);
  });

  it("everything that is wrong with both files, at once", () => {
    const tensors = fcTensors().set("fc.weight", zeros([1]));
    const message = faultsOf(files({ r: 0, use_qalora: true, lora_alpha: null }, tensors)).join("\n");
    expect(message).toContain("r: expected a positive whole number");
    expect(message).toContain("use_qalora: not supported, got true");
    expect(message).toContain("fc.weight: expected a key that starts with base_model.model.");
    const damaged = files({ r: 0 }).set(weightsName, new Uint8Array(3));
    expect(faultsOf(damaged)).toHaveLength(2);
    expect(() => readAdapter(damaged, { where: "runs/a" })).toThrow(
      /^runs\/a: 2 faults\n {2}- adapter_config\.json: r: /,
    );
  });

  it("ranks over the caller's limit", () => {
    expect(faultsOf(files({}), { maxRank: 1 })).toEqual([
      `${configName}: r: expected a rank of at most 1, got 2; raise maxRank`,
    ]);
    expect(faultsOf(files({ r: 1, rank_pattern: { fc: 2 } }), { maxRank: 1 })[0]).toContain('rank_pattern "fc"');
  });

  it("any change of a byte gives an error of ours or an adapter, quickly", () => {
    const valid = load("golden/distilbert/adapter");
    const change = fc.record({
      at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      to: fc.integer({ min: 0, max: 255 }),
    });
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 1, maxLength: 3 }),
        fc.constantFrom(configName, weightsName),
        (changes, name) => {
          const bytes = valid.get(name)!.slice();
          // Most faults are in the first bytes of the weights: their header.
          for (const { at, to } of changes) bytes[Math.floor(at * Math.min(bytes.length, 2000))] = to;
          faultsOf(new Map([...valid, [name, bytes]])); // asserts that what is thrown is a LowrankError
        },
      ),
      { numRuns: 1000 },
    );
  });
});
