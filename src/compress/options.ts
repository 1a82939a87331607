// What can be asked of compression, checked as a whole before any work begins.
import { throwFaults } from "../errors.ts";

/** How weights are stored: in 8 bits with a scale for each output, or in 4 with one for each block of 32 along a row. */
export type QuantizedForm = "int8" | "int4";

export interface CompressOptions {
  /** Layers to look at, as in a LoraConfig; default "all-linear". */
  readonly targetModules?: readonly string[] | string;
  readonly excludeModules?: readonly string[] | string;
  /** The rank of each layer. At most one of rank, energy, error and size; without any, nothing is factorized. */
  readonly rank?: number;
  /** The share of the squared singular values that each layer keeps, above 0 to 1. */
  readonly energy?: number;
  /** The relative error (Frobenius norm) that each layer may have, from 0 to below 1; with data, that of its outputs. */
  readonly error?: number;
  /** The share of its weights that the whole model may keep, above 0 to 1; ranks are chosen across layers. */
  readonly size?: number;
  /** What `size` is a share of; default "bytes". */
  readonly measure?: "bytes" | "parameters";
  /** Store the layers' weights, factorized or whole, in fewer bits. */
  readonly quantize?: QuantizedForm;
}

const targets = ["rank", "energy", "error", "size"] as const;

/** Throws LowrankError "config" that lists every fault. */
export function checkOptions(options: CompressOptions): void {
  const { rank, energy, error, size, quantize, measure } = options;
  const given = targets.filter((name) => options[name] !== undefined);
  const faults: string[] = [];
  const expect = (name: string, holds: boolean, what: string, value: unknown): void => {
    if (value !== undefined && !holds) faults.push(`${name}: expected ${what}, got ${value}`);
  };
  if (given.length > 1) faults.push(`expected one of ${targets.join(", ")}, got ${given.join(" and ")}; choose one`);
  if (given.length === 0 && quantize === undefined)
    faults.push(`expected ${targets.join(", ")} or quantize, got none; say how far to compress`);
  expect("rank", Number.isSafeInteger(rank) && rank! >= 1, "a whole number of 1 or more", rank);
  expect("energy", energy! > 0 && energy! <= 1, "a share above 0, up to 1", energy);
  expect("error", error! >= 0 && error! < 1, "a share from 0 to below 1", error);
  expect("size", size! > 0 && size! <= 1, "a share above 0, up to 1", size);
  expect("quantize", quantize === "int8" || quantize === "int4", "int8 or int4", quantize);
  expect("measure", measure === "bytes" || measure === "parameters", "bytes or parameters", measure);
  throwFaults("config", "compress", faults);
}
