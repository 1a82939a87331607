// Configurations: what is accepted, and what is told of those that are not. The published schema agrees with the reader.
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { readSweepConfig, rungSteps, type SweepConfig } from "./config.ts";
import { sweepSchema } from "./schema.ts";

const tune = { model: "base.onnx", data: ["train.csv"], steps: 900 };
const space = { r: [2, 4], learningRate: { loguniform: [1e-4, 1e-2] } };
const read = (values: object): SweepConfig =>
  readSweepConfig({ where: "sweep.yaml", values: values as Record<string, unknown> });

function faultsOf(values: object): readonly string[] {
  try {
    read(values);
  } catch (error) {
    if (error instanceof LowrankError) return error.faults.map((fault) => fault.replace(/^sweep\.yaml: /, ""));
    throw error;
  }
  return [];
}

const validate = new Ajv2020({ strict: true, strictRequired: false, allowUnionTypes: true }).compile(sweepSchema());

describe("a sweep's configuration", () => {
  it("has defaults for all but tune, the space and how much to try", () => {
    const config = read({ tune, search: { type: "asha", trials: 9, minSteps: 100, space } });
    expect(config).toMatchObject({ retries: 2, priority: 0, metric: null, mode: null, out: null, fleet: null });
    expect(config.search).toMatchObject({ type: "asha", trials: 9, minSteps: 100, eta: 3, seed: 0 });
    expect(config.search!.space.get("r")).toEqual({ kind: "choice", values: [2, 4] });
    expect(rungSteps({ eta: 3, minSteps: 100 }, 900)).toEqual([100, 300, 900]);
    expect(rungSteps({ eta: 3, minSteps: 100 }, 1000)).toEqual([100, 300, 900, 1000]);
  });

  it.each([
    [{ tune, serch: {} }, ["serch is no key; did you mean search?", "expected search or fleet, got neither"]],
    [{ tune, search: { type: "tpe", space } }, ['search.type: expected grid, random, asha, got "tpe"']],
    [
      { tune, search: { type: "random", space, trials: 0.5, sead: 1 } },
      [
        "search.sead is no key; did you mean search.seed?",
        "search.trials: expected a whole number from 1 to 1000000, got 0.5",
      ],
    ],
    [
      { tune: { ...tune, steps: 50 }, search: { type: "asha", trials: 2, minSteps: 100, space } },
      ["search.minSteps: expected at most 50, got 100"],
    ],
    [
      { tune: { ...tune, evalEvery: 30 }, search: { type: "asha", trials: 4, minSteps: 100, space } },
      [
        "search.trials: expected at least 9, so that one reaches the last of 3 rungs, got 4",
        "tune.evalEvery: expected a divisor of search.minSteps, so that rungs are measured, got 30",
      ],
    ],
    [
      {
        tune,
        search: {
          type: "random",
          trials: 2,
          space: { r: { uniform: [4, 2] }, loraAlpha: { log: [1, 2] }, learningRte: [1] },
        },
      },
      [
        "search.space.learningRte is no key; did you mean search.space.learningRate?",
        "search.space.r: uniform: expected two numbers, the lower first, got [4,2]",
        'search.space.loraAlpha: expected a list of values, or one of choice, uniform, loguniform, integer with its values, got {"log":[1,2]}',
      ],
    ],
    [{ tune, fleet: [] }, ["fleet: expected a list of mappings, one for each training, got another"]],
    [
      { tune, fleet: [{ name: "a" }], metric: "accuracy" },
      ['metric: expected set/name such as target/accuracy or retained/loss, got "accuracy"'],
    ],
    [{ tune, fleet: [{ name: "a" }], mode: "most" }, ['mode: expected min or max, got "most"']],
  ])("tells all that is wrong with %j", (values, faults) => {
    expect(faultsOf(values)).toEqual(faults);
  });

  it("has a schema that takes what the reader takes, and refuses unknown keys", () => {
    const good = [
      { tune, search: { type: "grid", space: { r: [1] } } },
      { tune, search: { type: "asha", trials: 9, minSteps: 100, eta: 3, space }, metric: "target/loss", mode: "min" },
      { tune, fleet: { file: "rows.csv" }, retries: 0, priority: 5, out: "runs/a" },
      { tune, fleet: [{ name: "a", r: 2 }] },
    ];
    for (const values of good) {
      expect(validate(values), JSON.stringify(validate.errors)).toBe(true);
      expect(faultsOf(values)).toEqual([]);
    }
    for (const values of [
      { tune, serch: 1 },
      { tune: { ...tune, out: "x" }, fleet: [{}] },
      { tune },
      { tune, search: { type: "grid", space: {} } },
    ]) {
      expect(validate(values)).toBe(false);
      expect(faultsOf(values)).not.toEqual([]);
    }
  });

  it("is published as it is made", () => {
    const path = new URL("../../schemas/sweep.schema.json", import.meta.url);
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual(sweepSchema());
  });
});
