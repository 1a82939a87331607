import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { sites } from "../onnx/sites.ts";
import { resolveConfig } from "./config.ts";
import { selectSites } from "./targets.ts";
import { stack } from "./testing/models.ts";

const bert = [
  "bert.encoder.layer.0.attention.self.query",
  "bert.encoder.layer.0.attention.self.key",
  "bert.encoder.layer.0.attention.output.dense",
  "bert.encoder.layer.1.attention.self.query",
  "bert.encoder.layer.1.attention.self.key",
  "bert.pooler.dense",
  "classifier",
];
const all = sites(stack(bert));

type Config = Parameters<typeof selectSites>[0];

function selected(config: Partial<Config>, from = all): string[] {
  return selectSites({ targetModules: "all-linear", excludeModules: null, ...config }, from).map(
    ({ modulePath }) => modulePath,
  );
}

function refused(config: Partial<Config>, from = all): LowrankError {
  try {
    selected(config, from);
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
  throw new Error("expected an error");
}

describe("a list", () => {
  it("means paths that equal an entry, or end in a dot and it", () => {
    expect(selected({ targetModules: ["query"] })).toEqual([bert[0], bert[3]]);
    expect(selected({ targetModules: ["1.attention.self.key", "bert.pooler.dense"] })).toEqual([bert[4], bert[5]]);
    expect(selected({ targetModules: ["dense"] })).toEqual([bert[2], bert[5]]);
    expect(selected({ targetModules: ["classifier"] })).toEqual([bert[6]]);
  });

  it("may have full paths of a model whose export lost a scope in front", () => {
    expect(selected({ targetModules: [`model.${bert[0]}`] })).toEqual([bert[0]]);
    expect(refused({ targetModules: [`model.${bert[0]}`, "wrapped.pooler.dense"] }).faults).toHaveLength(1);
    expect(selected({ targetModules: [`model.${bert[0]}`, "model.classifier"] })).toEqual([bert[0], bert[6]]);
  });

  it("is no regular expression and no part of a word", () => {
    expect(refused({ targetModules: ["quer"] }).message).toMatch(/"quer" matches no layer/);
    expect(refused({ targetModules: ["self.*"] }).message).toMatch(/"self\.\*" matches no layer/);
  });

  it("comes out in the model's order", () => {
    expect(selected({ targetModules: ["pooler.dense", "0.attention.self.key", "query"] })).toEqual([
      bert[0],
      bert[1],
      bert[3],
      bert[5],
    ]);
  });

  it("names every entry that matches nothing, with the nearest paths first", () => {
    const error = refused({ targetModules: ["query", "keys", "pooler.dens"] });
    expect(error.code).toBe("config");
    expect(error.faults).toEqual([
      expect.stringMatching(/^"keys" matches no layer; nearest: bert\.encoder\.layer\.0\.attention\.self\.key, /),
      expect.stringMatching(/^"pooler\.dens" matches no layer; nearest: bert\.pooler\.dense, /),
    ]);
  });

  it("answers at once for an entry that is a whole book", () => {
    const begun = performance.now();
    expect(refused({ targetModules: ["x".repeat(1_000_000)] }).code).toBe("config");
    expect(performance.now() - begun).toBeLessThan(1000);
  });

  it("takes a list from a file with entries for other architectures, as long as one matches", () => {
    const extra = { inference_mode: true };
    expect(selected({ targetModules: ["query", "c_attn"], extra })).toEqual(selected({ targetModules: ["query"] }));
    expect(refused({ targetModules: ["c_attn"], extra }).message).toMatch(/"c_attn"\] matches no layer/);
  });
});

describe("a string", () => {
  it("is a regular expression matched in full", () => {
    expect(selected({ targetModules: ".*\\.query" })).toEqual([bert[0], bert[3]]);
    expect(selected({ targetModules: ".*layer\\.(0|1)\\.attention\\.self\\.(query|key)" })).toEqual([
      bert[0],
      bert[1],
      bert[3],
      bert[4],
    ]);
    expect(selected({ targetModules: "class.*|.*pooler.*" })).toEqual([bert[5], bert[6]]);
    expect(refused({ targetModules: "query" }).message).toMatch(/"query" matches no layer/);
    expect(refused({ targetModules: "bert" }).message).toMatch(/"bert" matches no layer/);
  });

  it("is refused when JavaScript cannot read it, or would read something else", () => {
    expect(refused({ targetModules: "(" }).message).toMatch(
      /targetModules: "\(": expected a regular expression that JavaScript can read/,
    );
    expect(refused({ targetModules: "bert\\Z" }).message).toMatch(/\\Z is not supported/);
    expect(refused({ excludeModules: "[" }).message).toMatch(/^excludeModules: /);
  });

  it("is refused when it could be tried forever", () => {
    expect(refused({ targetModules: "(.*a)+b" }).message).toMatch(/could take forever/);
    expect(refused({ targetModules: `${".*".repeat(30)}b` }).message).toMatch(/too many repetitions/);
  });
});

describe("all-linear", () => {
  it("is every Linear but the output embedding", () => {
    expect(selected({})).toEqual(bert);
    const gpt = ["transformer.h.0.attn.c_attn", "model.embed_out", "lm_head"];
    expect(selected({}, sites(stack(gpt)))).toEqual(gpt.slice(0, 1));
  });

  it("leaves out the head of a sequence classifier when the task says so", () => {
    expect(selected({ taskType: "SEQ_CLS" })).toEqual(bert.slice(0, 6));
    expect(selected({ taskType: "SEQ_CLS" }, sites(stack(["model.layer", "score"])))).toEqual(["model.layer"]);
    expect(selected({ taskType: "CAUSAL_LM" })).toEqual(bert);
    // A path that only ends so is no head.
    expect(selected({ taskType: "SEQ_CLS" }, sites(stack(["my.classifier"])))).toEqual(["my.classifier"]);
  });
});

describe("excludeModules", () => {
  it("takes away, by list or by expression", () => {
    expect(selected({ targetModules: ["query", "key"], excludeModules: ["0.attention.self.query"] })).toEqual([
      bert[1],
      bert[3],
      bert[4],
    ]);
    expect(selected({ excludeModules: "bert\\..*" })).toEqual(["classifier"]);
  });

  it("may name what is not there, as in PEFT", () => {
    expect(selected({ targetModules: ["query"], excludeModules: ["nothing"] })).toEqual([bert[0], bert[3]]);
  });

  it("is an error when nothing is left", () => {
    expect(refused({ targetModules: ["query"], excludeModules: ["query"] }).message).toMatch(/matches no layer/);
  });
});

describe("models that cannot be adapted so", () => {
  it("no layer at all", () => {
    expect(refused({}, []).message).toBe("targetModules: the model has no layer that can be adapted");
  });

  it("two layers of one path, unless they are not targeted", () => {
    const shared = [all[0]!, all[1]!, { ...all[2]!, modulePath: bert[0]! }];
    const error = refused({ targetModules: ["query"] }, shared);
    expect(error.code).toBe("model");
    expect(error.message).toMatch(/two layers are called "bert\.encoder\.layer\.0\.attention\.self\.query"/);
    expect(selected({ targetModules: ["key"] }, shared)).toEqual([bert[1]]);
  });
});

describe("resolveConfig", () => {
  it("fills in PEFT's defaults", () => {
    expect(resolveConfig({})).toEqual({
      r: 8,
      loraAlpha: 8,
      targetModules: "all-linear",
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
    });
  });

  it("refuses variants that exclude each other, and what is no list of rows", () => {
    expect(() =>
      resolveConfig({
        useDora: true,
        loraBias: true,
        bias: "some" as "all",
        modulesToSave: ["head", ""],
        trainableTokenIndices: { emb: [1, 1], pos: [0] },
      }),
    ).toThrow(
      expect.objectContaining({
        faults: [
          'bias: expected none, all, lora_only, got "some"',
          "loraBias: expected false with useDora, got true; use one of them",
          'modulesToSave: expected the ends of module names, got ""',
          'trainableTokenIndices "emb": expected distinct row numbers',
        ],
      }),
    );
  });

  it("lists every value that is out of range", () => {
    const config = { r: 0, loraAlpha: -1, rankPattern: { a: 1.5, b: 2 }, alphaPattern: { c: Number.NaN } };
    expect(() => resolveConfig(config)).toThrow(
      expect.objectContaining({
        code: "config",
        faults: [
          "r: expected a whole number of 1 or more, got 0",
          "loraAlpha: expected a number above 0, got -1",
          'rankPattern "a": expected a whole number of 1 or more, got 1.5',
          'alphaPattern "c": expected a number above 0, got NaN',
        ],
      }),
    );
  });
});
