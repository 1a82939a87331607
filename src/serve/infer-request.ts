// An inference request of the Open Inference Protocol v2 (KServe), JSON or with Triton's binary tensor data extension: read and
// checked against what the model declares, all faults told at once.
import { elementCount, type Tensor, type TensorType } from "../tensor.ts";
import { parseBlend, type Wanted } from "./blend.ts";
import { datatypeOf, fromBinary, fromJson, textsOf, typeOfDatatype } from "./datatypes.ts";
import type { Description, Port } from "./engine.ts";
import { shortened } from "./names.ts";
import { ServeError } from "./serve-error.ts";

/** As it is in JSON, after it was validated against its schema. */
export interface InferBody {
  readonly id?: string;
  readonly parameters?: Readonly<Record<string, unknown>>;
  readonly inputs: readonly {
    readonly name: string;
    readonly shape: readonly number[];
    readonly datatype: string;
    readonly parameters?: Readonly<Record<string, unknown>>;
    readonly data?: unknown;
  }[];
  readonly outputs?: readonly {
    readonly name: string;
    readonly parameters?: Readonly<Record<string, unknown>>;
  }[];
}

/** A request that fits the model. */
export interface InferRequest {
  readonly id: string | undefined;
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly rows: number;
  /** The adapters of all rows (one), or of each; undefined where the request names none. */
  readonly wanted: readonly Wanted[] | undefined;
  readonly outputs: readonly WantedOutput[];
  /** How long the client wants to wait, in milliseconds. */
  readonly timeout: number | undefined;
}

export interface WantedOutput {
  readonly name: string;
  readonly isBinary: boolean;
}

export interface RequestLimits {
  /** Rows in one request. */
  readonly maxRows: number;
}

/** The input that carries the adapter of each row for clients whose parameters hold no lists. */
const adapterInput = "adapter";

/** The header that says how many bytes of a body are JSON; binary tensors follow. */
export const headerLengthName = "inference-header-content-length";

/**
 * Takes a body apart.
 *
 * @throws ServeError 400 when the header is no length within the body, or what it names is no JSON object.
 */
export function splitBody(body: Uint8Array, header: string | undefined): { json: unknown; binary: Uint8Array } {
  const length = header === undefined ? body.length : /^\d{1,15}$/.test(header) ? Number(header) : Number.NaN;
  if (!(length <= body.length)) {
    throw new ServeError(
      400,
      `Inference-Header-Content-Length: expected a length within the ${body.length} bytes of the body, got ${shortened(String(header))}`,
    );
  }
  return { json: parseJson(body.subarray(0, length)), binary: body.subarray(length) };
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(utf8.decode(bytes));
  } catch (error) {
    throw new ServeError(400, `the body is no JSON: ${error instanceof Error ? error.message : "unreadable"}`, {
      cause: error,
    });
  }
}

/**
 * Reads a request.
 *
 * @throws ServeError 400 with everything that does not fit the model.
 */
export function readInferRequest(
  body: InferBody,
  binary: Uint8Array,
  model: Description,
  limits: RequestLimits,
): InferRequest {
  const faults: string[] = [];
  const tail = new BinaryTail(binary);
  const inputs = new Map<string, Tensor>();
  let texts: readonly string[] | undefined;
  for (const input of body.inputs) {
    const port = model.inputs.find(({ name }) => name === input.name);
    const where = `input ${JSON.stringify(shortened(input.name))}: `;
    if (port === undefined && input.name === adapterInput && input.datatype === "BYTES") {
      const found = readTexts(input, tail);
      if (typeof found === "string") faults.push(where + found);
      else texts = found;
      continue;
    }
    const value = inputs.has(input.name) ? "given twice" : readInput(input, port, tail);
    if (typeof value === "string") faults.push(where + value);
    else inputs.set(input.name, value);
  }
  if (tail.left > 0) faults.push(`binary data: ${tail.left} bytes more than binary_data_size of the inputs says`);
  const rows = rowsOf(inputs, model, limits, faults);
  const outputs = readOutputs(body, model, faults);
  const wanted = readWanted(body.parameters ?? {}, texts, rows, faults);
  const timeout = readTimeout(body.parameters ?? {}, faults);
  if (faults.length > 0) throw new ServeError(400, faults.slice(0, 20).join("; "));
  return { id: body.id, inputs: Object.fromEntries(inputs), rows, wanted, outputs, timeout };
}

type GivenInput = InferBody["inputs"][number];

/** The bytes behind the JSON, taken input by input. */
class BinaryTail {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  /** The next bytes; undefined when there are not so many. */
  take(length: number): Uint8Array | undefined {
    if (length > this.left) return undefined;
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}

/** The bytes of an input that has them; null where its data is in the JSON; or what is wrong. */
function binaryOf({ parameters, data }: GivenInput, tail: BinaryTail): Uint8Array | null | string {
  const size = parameters?.binary_data_size;
  if (size === undefined) return null;
  if (!Number.isSafeInteger(size) || (size as number) < 0) return "binary_data_size: expected a number of bytes";
  if (data !== undefined) return "expected data or binary_data_size, got both";
  return (
    tail.take(size as number) ?? `binary_data_size: expected ${tail.left} bytes or fewer, which are left, got ${size}`
  );
}

function readInput(input: GivenInput, port: Port | undefined, tail: BinaryTail): Tensor | string {
  // Taken whatever else is wrong: what follows begins behind it.
  const binary = binaryOf(input, tail);
  if (typeof binary === "string") return binary;
  if (port === undefined) return "the model has no such input";
  const type = typeOfDatatype(input.datatype);
  if (port.type === undefined) return "the model takes texts here, which this server does not";
  if (type !== port.type) {
    return `datatype: expected ${datatypeOf[port.type as TensorType]}, got ${shortened(input.datatype)}`;
  }
  const { shape } = input;
  const fault = misfit(shape, port);
  if (fault !== undefined) return fault;
  const count = elementCount(shape);
  // No body holds as many, and a typed array of that size must not be asked for.
  if (count > 2 ** 31) return `shape: expected at most 2^31 values, got [${shape}]`;
  return binary === null ? fromJson(input.data, type, shape, count) : fromBinary(binary, type, shape, count);
}

function misfit(shape: readonly number[], { shape: declared }: Port): string | undefined {
  if (declared === null) return undefined;
  const fits =
    declared.length === shape.length && declared.every((dim, axis) => typeof dim !== "number" || dim === shape[axis]);
  return fits
    ? undefined
    : `shape: expected [${declared.map((dim) => dim ?? -1).join(", ")}], got [${shape.join(", ")}]`;
}

function readTexts(input: GivenInput, tail: BinaryTail): readonly string[] | string {
  const binary = binaryOf(input, tail);
  if (typeof binary === "string") return binary;
  const texts = binary === null ? input.data : textsOf(binary);
  if (typeof texts === "string") return texts;
  const flat = Array.isArray(texts) ? texts.flat() : [];
  if (!Array.isArray(texts) || !flat.every((text) => typeof text === "string")) return "data: expected texts";
  if (flat.length !== elementCount(input.shape))
    return `data: expected ${elementCount(input.shape)} texts, got ${flat.length}`;
  return flat;
}

/** The rows of a request: the first axis of all inputs where the model takes batches, else 1. */
function rowsOf(
  inputs: ReadonlyMap<string, Tensor>,
  { inputs: ports, sharesRuns }: Description,
  { maxRows }: RequestLimits,
  faults: string[],
): number {
  const first = ports.map(({ name }) => inputs.get(name)).find((value) => value !== undefined);
  const rows = first?.dims[0] ?? 1;
  if (first === undefined && faults.length === 0) faults.push("inputs: expected those of the model, got none");
  if (rows < 1) faults.push("expected one row or more, got 0");
  if (rows > maxRows) faults.push(`expected at most ${maxRows} rows, got ${rows}; send several requests`);
  if (!sharesRuns) return Math.max(1, rows);
  for (const [name, { dims }] of inputs) {
    if (dims[0] !== rows)
      faults.push(`input ${JSON.stringify(name)}: expected ${rows} rows as the other inputs have, got ${dims[0]}`);
  }
  return rows;
}

function readOutputs(body: InferBody, { outputs }: Description, faults: string[]): WantedOutput[] {
  const byDefault = body.parameters?.binary_data_output === true;
  if (body.outputs === undefined || body.outputs.length === 0) {
    return outputs.map(({ name }) => ({ name, isBinary: byDefault }));
  }
  return body.outputs.map(({ name, parameters }) => {
    if (!outputs.some((port) => port.name === name)) {
      faults.push(
        `output ${JSON.stringify(shortened(name))}: the model has no such output; it has ${outputs.map((port) => port.name).join(", ")}`,
      );
    }
    if (parameters?.classification !== undefined) faults.push("classification: this extension is not supported");
    const own = parameters?.binary_data;
    return { name, isBinary: typeof own === "boolean" ? own : byDefault };
  });
}

/** `parameters.adapter`: one for all rows, or a list with one for each; or a BYTES input of that name. */
function readWanted(
  parameters: Readonly<Record<string, unknown>>,
  texts: readonly string[] | undefined,
  rows: number,
  faults: string[],
): readonly Wanted[] | undefined {
  const { adapter } = parameters;
  if (adapter !== undefined && texts !== undefined) {
    faults.push("adapter: expected a parameter or an input, got both");
    return undefined;
  }
  const given = texts ?? adapter;
  if (given === undefined) return undefined;
  const list: readonly unknown[] = Array.isArray(given) ? given : [given];
  if (Array.isArray(given) && list.length !== rows) {
    faults.push(`adapter: expected one for each of the ${rows} rows, got ${list.length}`);
    return undefined;
  }
  const known = new Map<unknown, Wanted>();
  for (const one of new Set(list)) {
    if (one !== null && typeof one !== "string") {
      faults.push(`adapter: expected a name, a sum such as "a:0.7,b:0.3", null, or a list of those, got ${typeof one}`);
      return undefined;
    }
    known.set(one, one === null ? [] : parseBlend(one));
  }
  return list.map((one) => known.get(one)!);
}

/** Triton's `timeout`, in microseconds. */
function readTimeout({ timeout }: Readonly<Record<string, unknown>>, faults: string[]): number | undefined {
  if (timeout === undefined) return undefined;
  if (typeof timeout === "number" && Number.isFinite(timeout) && timeout > 0) return timeout / 1000;
  faults.push("timeout: expected microseconds above 0");
  return undefined;
}
