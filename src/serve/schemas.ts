// JSON schemas of requests and answers: what is validated before a route sees it, and what /openapi.json says.

type Schema = Readonly<Record<string, unknown>>;

const text = { type: "string" } as const;
const parameters: Schema = { type: "object", additionalProperties: true };
const shape: Schema = { type: "array", maxItems: 32, items: { type: "integer", minimum: 0, maximum: 2 ** 31 - 1 } };

const errorSchema: Schema = {
  type: "object",
  required: ["error"],
  properties: { error: { type: "string", description: "What is wrong, and what to do." } },
};

const tensor = (extra: Schema): Schema => ({
  type: "object",
  required: ["name", "shape", "datatype"],
  properties: {
    name: { ...text, maxLength: 1024 },
    shape,
    datatype: { ...text, maxLength: 16, description: "BOOL, UINT8 … INT64, FP16, BF16, FP32, FP64" },
    parameters,
    ...extra,
  },
});

const data: Schema = { type: "array", items: {}, description: "Values in row-major order, flat or nested." };

export const inferSchema: Schema = {
  type: "object",
  required: ["inputs"],
  properties: {
    id: { ...text, maxLength: 256 },
    parameters: {
      ...parameters,
      description:
        'adapter: a name, a sum such as "a:0.7,b:0.3", or a list with one (or null) for each row; timeout: microseconds; binary_data_output: all outputs as binary data.',
    },
    inputs: { type: "array", minItems: 1, maxItems: 256, items: tensor({ data }) },
    outputs: {
      type: "array",
      maxItems: 256,
      items: { type: "object", required: ["name"], properties: { name: { ...text, maxLength: 1024 }, parameters } },
    },
  },
};

const inferAnswerSchema: Schema = {
  type: "object",
  properties: {
    model_name: text,
    model_version: text,
    id: text,
    parameters,
    outputs: { type: "array", items: tensor({ data }) },
  },
};

export const metadataSchema: Schema = {
  type: "object",
  properties: {
    name: text,
    versions: { type: "array", items: text },
    platform: text,
    inputs: { type: "array", items: tensor({}) },
    outputs: { type: "array", items: tensor({}) },
  },
};

export const indexRequestSchema: Schema = {
  type: ["object", "null"],
  properties: { ready: { type: "boolean", description: "Only models that are ready." } },
};

export const indexSchema: Schema = {
  type: "array",
  items: {
    type: "object",
    properties: { name: text, version: text, state: { enum: ["READY", "UNAVAILABLE", "LOADING"] }, reason: text },
  },
};

export const repositoryRequestSchema: Schema = { type: ["object", "null"], properties: { parameters } };

export const loadLoraSchema: Schema = {
  type: "object",
  required: ["lora_name"],
  properties: {
    lora_name: text,
    lora_path: {
      ...text,
      description: "The name of the adapter's folder: the same as lora_name. Paths and URLs are refused.",
    },
    load_inplace: { type: "boolean", description: "Load the present content in the place of the one that is loaded." },
  },
};

export const unloadLoraSchema: Schema = {
  type: "object",
  required: ["lora_name"],
  properties: { lora_name: text, lora_int_id: { type: ["integer", "null"] } },
};

export const modelSchema: Schema = {
  type: "object",
  properties: {
    id: text,
    object: text,
    created: { type: "integer" },
    owned_by: text,
    root: text,
    parent: { type: ["string", "null"] },
  },
};

export const modelsSchema: Schema = {
  type: "object",
  properties: { object: text, data: { type: "array", items: modelSchema } },
};

const numbers: Schema = { type: "array", items: { type: "number" } };

export const examplesSchema: Schema = {
  type: "object",
  required: ["examples"],
  properties: {
    examples: {
      type: "array",
      minItems: 1,
      maxItems: 10_000,
      description:
        "inputs: one row of each input by name, flat; label: the number of the class, or the numbers that are wanted.",
      items: {
        type: "object",
        required: ["inputs", "label"],
        additionalProperties: false,
        properties: {
          inputs: { type: "object", additionalProperties: numbers },
          label: { anyOf: [{ type: "number" }, numbers] },
        },
      },
    },
  },
};

/** The parameters of a path. */
export function pathSchema(...names: readonly string[]): Schema {
  return { type: "object", properties: Object.fromEntries(names.map((name) => [name, text])) };
}

/** A route's answers: the one that is meant, and errors. `schema` is null where the answer is no JSON. */
export function answers(schema: Schema | null, description: string, type = "application/json"): Schema {
  const good = schema === null ? { description, content: { [type]: { schema: text } } } : { ...schema, description };
  return { 200: good, ...failures };
}

const failures: Schema = {
  "4xx": { ...errorSchema, description: "What is wrong with the request." },
  "5xx": { ...errorSchema, description: "Try again, or look at the log." },
};

/** The answers to an inference request: JSON, or JSON with binary tensors behind it. */
export const inferAnswers: Schema = {
  200: {
    description: "The outputs, in the order in which they were asked for.",
    content: {
      "application/json": { schema: inferAnswerSchema },
      "application/octet-stream": { schema: { ...text, format: "binary" } },
    },
  },
  ...failures,
};

/** Whether the server or a model is there: 200 or 503, with the same form. */
export function readyAnswers(description: string): Schema {
  return { ...answers(readySchema, description), 503: { ...readySchema, description: "Not now." } };
}

const readySchema: Schema = {
  type: "object",
  properties: { name: text, live: { type: "boolean" }, ready: { type: "boolean" } },
};
