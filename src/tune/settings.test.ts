import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { optionsOf, verbs } from "./option-table.ts";
import { parseConfigFile, resolveOptions, schemaOf } from "./settings.ts";

function faultsOf(run: () => unknown): readonly string[] {
  try {
    run();
  } catch (error) {
    if (error instanceof LowrankError) return error.faults;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("resolveOptions", () => {
  it("takes flags over the file, and the file over the defaults", () => {
    const file = parseConfigFile("tune.yaml", "r: 16\nlearningRate: 2e-4\ndata: train.csv\nuseDora: true\n");
    const options = resolveOptions("tune", { r: "4", targetModules: ["q_proj,v_proj", "/.*fc\\d/"] }, file);
    expect(options).toMatchObject({
      r: 4,
      learningRate: 2e-4,
      data: ["train.csv"],
      useDora: true,
      targetModules: ["q_proj", "v_proj", "/.*fc\\d/"],
      batchSize: 32,
      loraAlpha: null,
    });
  });

  it("tells every fault of both at once, with the nearest name of an unknown key", () => {
    const file = parseConfigFile("tune.yaml", "learning_rate: 1\nloraDropout: 2\nlayers: [1, 2]\noptimizer: adamx\n");
    expect(faultsOf(() => resolveOptions("tune", { r: "1.5", epochs: "soon", seed: "" }, file))).toEqual([
      'tune.yaml: "learning_rate" is no option; did you mean learningRate?',
      'tune.yaml: "loraDropout": expected a number from 0 up to 0.99, got 2',
      expect.stringMatching(/^tune\.yaml: "layers" is no option of tune; did you mean /),
      'tune.yaml: "optimizer": expected adamw, adam, sgd, lion, adafactor, got "adamx"',
      "--r: expected a whole number from 1 up to 4096, got 1.5",
      '--epochs: expected a number above 0, got "soon"',
      '--seed: expected a whole number from 0, got ""',
    ]);
  });

  it("reads lists of numbers with commas", () => {
    expect(resolveOptions("pretrain", { layers: ["784,1000,10"] }).layers).toEqual([784, 1000, 10]);
    expect(faultsOf(() => resolveOptions("pretrain", { layers: ["784,x"] }))).toEqual([
      'pretrain: --layers: expected a list of numbers, got [784,"x"]',
    ]);
  });

  it("takes null where there is no value by default, and refuses it elsewhere", () => {
    const file = parseConfigFile("a.json", '{"steps": null, "r": null}');
    expect(faultsOf(() => resolveOptions("tune", {}, file))).toEqual(['tune: a.json: "r": expected a value, got null']);
  });
});

describe("parseConfigFile", () => {
  it.each([
    ["a list", "- r", "c.yaml: expected a mapping of options, got a list or a single value"],
    ["a key twice", "r: 1\nr: 2", /^c\.yaml: Map keys must be unique at line 2, column 1$/],
    ["no YAML", "r: [1", /^c\.yaml: .* at line 1, column \d+$/],
  ])("refuses %s", (_name, text, message) => {
    expect(faultsOf(() => parseConfigFile("c.yaml", text))[0]).toMatch(message);
  });

  it("does not expand aliases without bound", () => {
    const bomb = ["a: &a [x, x, x, x, x, x, x, x, x]"];
    for (let level = 0; level < 9; level++) {
      const [before, name] = [String.fromCharCode(97 + level), String.fromCharCode(98 + level)];
      bomb.push(`${name}: &${name} [${Array(9).fill(`*${before}`).join(", ")}]`);
    }
    expect(() => parseConfigFile("bomb.yaml", bomb.join("\n"))).toThrow(LowrankError);
  });

  it("reads an empty file as no options", () => {
    expect(parseConfigFile("c.yaml", "").values).toEqual({});
  });
});

describe("the published schemas", () => {
  it.each(verbs)("%s: is the one in schemas/, and accepts the defaults", async (verb) => {
    const file = join(import.meta.dirname, `../../schemas/${verb}-options.schema.json`);
    const schema = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
    expect(schema, "run npm run docs:schemas").toEqual(JSON.parse(JSON.stringify(schemaOf(verb))));
    const validate = new Ajv2020({ allErrors: true, allowUnionTypes: true }).compile(schema);
    const defaults = Object.fromEntries(optionsOf(verb).map(([name, row]) => [name, row.default]));
    expect(validate(defaults), JSON.stringify(validate.errors)).toBe(true);
    expect(validate({ learning_rate: 1 })).toBe(false);
    expect(validate({ batchSize: 0 })).toBe(false);
  });
});
