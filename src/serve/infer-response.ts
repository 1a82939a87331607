// The answer to an inference request, JSON or with binary tensors behind it.
import type { Tensor } from "../tensor.ts";
import { datatypeOf, toBinary, toJson } from "./datatypes.ts";
import type { WantedOutput } from "./infer-request.ts";
import { ServeError } from "./serve-error.ts";

export interface ResponseHead {
  readonly model_name: string;
  readonly model_version: string;
  readonly id?: string;
  readonly parameters?: Readonly<Record<string, unknown>>;
}

/** The body, and how many of its bytes are JSON where binary tensors follow. */
export interface InferResponse {
  readonly body: string | Uint8Array;
  readonly jsonBytes: number | null;
}

/**
 * Writes the wanted outputs.
 *
 * @throws ServeError 400 when one is of a type that has no form in JSON and was not asked for as binary data.
 */
export function writeInferResponse(
  head: ResponseHead,
  wanted: readonly WantedOutput[],
  outputs: Readonly<Record<string, Tensor>>,
): InferResponse {
  const parts: Uint8Array[] = [];
  const described = wanted.map(({ name, isBinary }) => {
    const value = outputs[name];
    if (value === undefined) throw new Error(`internal: the run gave no output ${name}`);
    const datatype = datatypeOf[value.type];
    const about = { name, shape: value.dims, datatype };
    if (!isBinary && (datatype === "FP16" || datatype === "BF16")) {
      throw new ServeError(
        400,
        `output ${JSON.stringify(name)}: ${datatype} has no form in JSON; ask for it with binary_data`,
      );
    }
    if (!isBinary) return { ...about, data: toJson(value) };
    const bytes = toBinary(value);
    parts.push(bytes);
    return { ...about, parameters: { binary_data_size: bytes.length } };
  });
  const json = JSON.stringify({ ...head, outputs: described });
  if (parts.length === 0) return { body: json, jsonBytes: null };
  const start = Buffer.from(json);
  return { body: Buffer.concat([start, ...parts]), jsonBytes: start.length };
}
