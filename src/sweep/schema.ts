// The JSON schema of a sweep's configuration, made from the option table of tune: schemas/sweep.schema.json.
import { schemaOf } from "../tune/settings.ts";
import { sweepable } from "./config.ts";

type Schema = Record<string, unknown>;

/** For editors and validators; what it cannot say (that rungs need steps, say) `readSweepConfig` does. */
export function sweepSchema(): Schema {
  const tune = schemaOf("tune").properties as Record<string, Schema>;
  const own = Object.fromEntries(sweepable.map((name) => [name, tune[name]!]));
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: "urn:lowrank:sweep:1",
    title: "Configuration of lowrank sweep",
    description: "A file for `lowrank sweep CONFIG`, YAML or JSON.",
    type: "object",
    additionalProperties: false,
    required: ["tune"],
    oneOf: [{ required: ["search"] }, { required: ["fleet"] }],
    properties: {
      $schema: { type: "string" },
      tune: mapping("Options of tune that all trials have; {column} stands for a cell of a fleet's row.", own),
      search: { oneOf: [gridSchema(), randomSchema(), halvingSchema()] },
      fleet: fleetSchema(),
      metric: {
        description:
          "What trials are compared by, as their evaluations call it (default: what they choose their best by).",
        type: ["string", "null"],
        pattern: "^[a-z]+/[a-z_]+$",
      },
      mode: { description: "Default: max for accuracies, min for all else.", enum: ["min", "max", null] },
      retries: whole("How often a trial that crashed is tried again.", 2, 0, 100),
      priority: whole("On a queue, 0 goes before 1, and so on.", 0, 0, 1000),
      out: { description: "The sweep's folder (default: runs/sweep-<time>).", type: ["string", "null"], minLength: 1 },
    },
    $defs: { dimension: dimensionSchema() },
  };
}

function mapping(description: string, properties: Record<string, Schema>): Schema {
  return { description, type: "object", additionalProperties: false, properties };
}

function whole(description: string, preset: number | null, minimum: number, maximum?: number): Schema {
  return {
    description,
    type: "integer",
    ...(preset !== null && { default: preset }),
    minimum,
    ...(maximum !== undefined && { maximum }),
  };
}

const space: Schema = {
  description: "Options of tune, each with what it is drawn from.",
  type: "object",
  minProperties: 1,
  additionalProperties: false,
  properties: Object.fromEntries(sweepable.map((name) => [name, { $ref: "#/$defs/dimension" }])),
};

const drawn: Record<string, Schema> = {
  space,
  trials: whole("How many points are drawn.", null, 1, 1_000_000),
  seed: whole("Of the drawing; the trials' own seed is an option of tune.", 0, 0),
};

function gridSchema(): Schema {
  return {
    ...mapping("Every combination of lists of values.", { type: { const: "grid" }, space }),
    required: ["type", "space"],
  };
}

function randomSchema(): Schema {
  const of = mapping("Points drawn at random.", { type: { const: "random" }, ...drawn });
  return { ...of, required: ["type", "space", "trials"] };
}

function halvingSchema(): Schema {
  const of = mapping("Successive halving (ASHA): many short trainings, of which the best go on.", {
    type: { const: "asha" },
    ...drawn,
    eta: whole("One in so many goes on from each rung.", 3, 2, 100),
    minSteps: whole("Steps of the first rung; those of the last are tune.steps.", null, 1),
  });
  return { ...of, required: ["type", "space", "trials", "minSteps"] };
}

function fleetSchema(): Schema {
  return {
    description: "One training for each row: `name`, options of tune, and cells for {column} in tune.",
    oneOf: [
      { type: "array", minItems: 1, items: { type: "object" } },
      { ...mapping("Rows from a CSV or JSONL file.", { file: { type: "string", minLength: 1 } }), required: ["file"] },
    ],
  };
}

function dimensionSchema(): Schema {
  const range = (kind: string, description: string): Schema => ({
    ...mapping(description, { [kind]: { type: "array", items: { type: "number" }, minItems: 2, maxItems: 2 } }),
    required: [kind],
  });
  return {
    oneOf: [
      { description: "One of these.", type: "array", minItems: 1 },
      { ...mapping("One of these.", { choice: { type: "array", minItems: 1 } }), required: ["choice"] },
      range("uniform", "Evenly between two numbers."),
      range("loguniform", "Evenly between the logarithms of two numbers."),
      range("integer", "A whole number between two, both included."),
    ],
  };
}
