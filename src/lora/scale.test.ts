import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { readConfig, writeConfig } from "../adapter/config-file.ts";
import { LowrankError } from "../errors.ts";
import { resolveConfig } from "./config.ts";
import { alphaOf, patternFault, rankOf, scaleOf, withPaths } from "./scale.ts";

const plain = { r: 4, loraAlpha: 8, useRslora: false, rankPattern: {}, alphaPattern: {} };

/** The rank that `pattern` gives `path`, 1 where it does not match. */
function match(pattern: string, path: string): boolean {
  return rankOf({ r: 1, rankPattern: { [pattern]: 2 } }, path) === 2;
}

describe("scaleOf", () => {
  it("is alpha / r, or alpha / sqrt(r) with rsLoRA", () => {
    expect(scaleOf(plain, "fc")).toBe(2);
    expect(scaleOf({ ...plain, useRslora: true }, "fc")).toBe(4);
  });

  it("takes rank and alpha from the patterns (golden/distilbert)", () => {
    const config = {
      r: 2,
      loraAlpha: 2,
      useRslora: true,
      rankPattern: { "layer.0.attention.q_lin": 5 },
      alphaPattern: { "layer.0.attention.q_lin": 7 },
    };
    expect(scaleOf(config, "distilbert.transformer.layer.0.attention.q_lin")).toBeCloseTo(7 / Math.sqrt(5), 15);
    expect(scaleOf(config, "distilbert.transformer.layer.1.attention.q_lin")).toBeCloseTo(2 / Math.sqrt(2), 15);
  });

  it("takes the first key that matches, in the object's order", () => {
    const rankPattern = { "h.1.fc": 2, fc: 3, ".*": 4 };
    const ranks = ["h.1.fc", "h.2.fc", "h.1.fc2"].map((path) => rankOf({ r: 1, rankPattern }, path));
    expect(ranks).toEqual([2, 3, 4]);
    expect(alphaOf({ loraAlpha: 1, alphaPattern: { ".*": 4, fc: 3 } }, "fc")).toBe(4);
  });
});

interface PatternCase {
  readonly kind: "rank_pattern" | "alpha_pattern";
  readonly pattern: readonly (readonly [string, number])[];
  readonly trained: Readonly<Record<string, { readonly r: number; readonly alpha: number }>>;
  /** adapter_config.json, whose keys PEFT sorts: another may come first in it. */
  readonly file: string;
  /** Null where PEFT cannot load its own file, since a tensor has another rank. */
  readonly loaded: PatternCase["trained"] | null;
}

const patternCases = JSON.parse(
  readFileSync(new URL("../../test/fixtures/lora/patterns.json", import.meta.url), "utf8"),
) as PatternCase[];

describe("overlapping keys give what PEFT gives", () => {
  const expectValues = (config: Parameters<typeof scaleOf>[0], expected: PatternCase["trained"]): void => {
    for (const [path, { r, alpha }] of Object.entries(expected))
      expect([path, rankOf(config, path), alphaOf(config, path)]).toEqual([path, r, alpha]);
  };

  it.each(patternCases.map((one) => [`${one.kind} ${JSON.stringify(one.pattern)}`, one] as const))("%s", (_, one) => {
    const pattern = Object.fromEntries(one.pattern);
    const own = one.kind === "rank_pattern" ? { rankPattern: pattern } : { alphaPattern: pattern };
    const trained = resolveConfig({ r: 2, loraAlpha: 2, ...own });
    expectValues(trained, one.trained);
    // Written by us, sorting the keys again changes nothing.
    const written = readBack(writeConfig(trained, Object.keys(one.trained)));
    expectValues(written, one.trained);
    const sorted = (keys: Readonly<Record<string, number>>) => Object.fromEntries(Object.entries(keys).sort());
    const again = { rankPattern: sorted(written.rankPattern), alphaPattern: sorted(written.alphaPattern) };
    expectValues({ ...written, ...again }, one.trained);
    const loaded = readBack(new TextEncoder().encode(one.file));
    if (one.loaded !== null) expectValues(loaded, one.loaded);
    else expect(() => expectValues(loaded, one.trained)).toThrow();
  });

  function readBack(bytes: Uint8Array) {
    const [faults, warnings]: [string[], string[]] = [[], []];
    const config = readConfig(bytes, 64, faults, warnings);
    expect([faults, warnings]).toEqual([[], []]);
    return config!;
  }
});

describe("withPaths", () => {
  it("keeps each module's rank and alpha under other names", () => {
    const config = resolveConfig({
      r: 2,
      rankPattern: { "^model.fc1": 4, "model.enc.fc1": 3 },
      alphaPattern: { fc1: 5, "model.enc.*": 6 },
    });
    const own = ["model.fc1", "model.enc.fc1", "model.enc.fc2"];
    const placed = withPaths(config, new Map(own.map((path) => [path, path.replace("model.", "")])));
    for (const path of own) {
      const there = path.replace("model.", "");
      expect([rankOf(placed, there), alphaOf(placed, there)]).toEqual([rankOf(config, path), alphaOf(config, path)]);
    }
    const plainConfig = resolveConfig({ r: 2 });
    expect(withPaths(plainConfig, new Map([["model.fc1", "fc1"]]))).toBe(plainConfig);
  });
});

// The expected values are Python's: bool(re.match(rf"(.*\.)?({key})$", path)).
describe("patterns match as PEFT's do", () => {
  it.each([
    ["fc", "fc", true],
    ["fc", "model.fc", true],
    ["fc", "model.xfc", false],
    ["fc", "fc.model", false],
    ["layer.0.fc", "a.layer.0.fc", true],
    ["layer.0.fc", "a.layerx0.fc", true],
    ["layer\\.0\\.fc", "a.layerx0.fc", false],
    ["layer\\.0\\.fc", "layer.0.fc", true],
    [".c", "a.bc", true],
    ["0", "0", true],
    ["0", "net.0", true],
    ["0", "net.10", false],
    ["", "", true],
    ["", "a", false],
    [".*", "a.b.c", true],
    ["^a.b", "a.b", true],
    ["^a.b", "x.a.b", false],
    ["(q|v)_proj", "layers.3.v_proj", true],
    ["q|v", "layers.v", true],
    ["q|v", "layers.xv", false],
    ["layers\\.[0-3]\\..*_proj", "model.layers.2.self_attn.q_proj", true],
    ["layers\\.[0-3]\\..*_proj", "model.layers.4.self_attn.q_proj", false],
    ["layers\\.\\d{2}\\.fc", "layers.12.fc", true],
    ["(?!head).*fc", "fc", true],
    ["a+b?c*", "x.aac", true],
  ])("%s on %s", (pattern, path, expected) => {
    expect(match(pattern, path)).toBe(expected);
  });

  it("takes a path that is itself a key, as PEFT does", () => {
    expect(match("a+b", "a+b")).toBe(true);
  });

  it("is not misled by names of Object.prototype", () => {
    expect(rankOf({ r: 1, rankPattern: {} }, "constructor")).toBe(1);
    expect(rankOf({ r: 1, rankPattern: {} }, "__proto__")).toBe(1);
  });
});

describe("hostile patterns", () => {
  it.each([
    ["(", "expected a regular expression that JavaScript can read"],
    ["a)(b", "expected a regular expression that JavaScript can read"],
    ["(?P<n>a)", "expected a regular expression that JavaScript can read"],
    ["a\\Z", "\\Z is not supported"],
    ["a{,3}", "{,3} is not supported"],
    ["[]a]", "[] is not supported"],
    ["x".repeat(513), "expected at most 512 characters, got 513"],
    ["(a+)+", "a repeated group with a repetition"],
    ["(a|a)*", "a repeated group with a repetition"],
    ["((a?)){50}", "a repeated group with a repetition"],
    ["(?:(?:a*)b)*", "a repeated group with a repetition"],
    ["a{100000}", "a repeated group with a repetition"],
  ])("%s is refused", (pattern, fault) => {
    expect(patternFault(pattern)).toContain(fault);
    expect(() => rankOf({ r: 1, rankPattern: { [pattern]: 2 } }, "a")).toThrow(LowrankError);
  });

  it("harmless ones are not", () => {
    for (const pattern of [
      "fc",
      "(a|b)?c",
      "[(|)*]+x",
      "\\(a\\)+",
      "(?:ab)*",
      "(?<!x)a",
      "(a|b)(c|d)",
      ".*\\.\\d+\\..*",
    ]) {
      expect(patternFault(pattern), pattern).toBeNull();
    }
  });

  it("refuses repetitions that could take long on this path, and is quick on what it takes", () => {
    const path = "a.".repeat(100) + "a".repeat(100);
    const rankPattern = { ".*a.*a.*a.*a.*b": 2 };
    expect(() => rankOf({ r: 1, rankPattern }, path)).toThrow(
      "too many repetitions for a module path of 300 characters",
    );
    expect(rankOf({ r: 1, rankPattern }, "model.layers.0.attention")).toBe(1);
    expect(() => rankOf({ r: 1, rankPattern: { [`${"a?".repeat(60)}b`]: 2 } }, "a".repeat(60))).toThrow(
      "too many repetitions",
    );
    const start = performance.now();
    expect(rankOf({ r: 1, rankPattern: { ".*a.*a.*b": 2 } }, path.slice(100, 250))).toBe(1);
    expect(rankOf({ r: 1, rankPattern: { ".*a.*a.*a.*b": 2 } }, "a".repeat(110))).toBe(1);
    expect(performance.now() - start).toBeLessThan(3000);
  });
});
