// Labels of a batch: class numbers, class names that become numbers, or values to be predicted.
import { nearest } from "../nearest.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { createField, type Field, fieldTarget, fieldTensor, type Numbers, show } from "./fields.ts";
import type { Cell, Column, Row } from "./table.ts";

export interface LabelOptions {
  /** Whole numbers or names ("classes", int64), numbers to be predicted ("values", float32), or no labels at all. Default: as the first row looks. */
  readonly kind?: "classes" | "values" | "none";
  /** Class names, the first being class 0: those of the training data, when this is for evaluation. */
  readonly names?: readonly string[] | null;
  /** How many classes the model tells apart; labels from there on are faults. */
  readonly classes?: number;
}

/** The columns that hold labels when no map says so. */
export const labelNames: readonly string[] = ["labels", "label", "target"];

export interface LabelWriter {
  /** The classes' names; complete once all rows were checked. */
  names(): readonly string[] | null;
  readonly kind: "classes" | "values" | "none";
  /** Looks at a row before training; what is wrong with it, or null. */
  check(row: Row): string | null;
  target(examples: number): Numbers;
  write(row: Row, target: Numbers, at: number): void;
  tensor(target: Numbers, examples: number): Tensor;
}

/** How labels are read from `column` (null: there are none); or what does not fit. */
export function labelWriter(
  column: number | null,
  columns: readonly Column[],
  sample: Row,
  options: LabelOptions & { readonly tableNames: readonly string[] | null },
): LabelWriter | string {
  if (options.kind === "none") return noLabels();
  if (column === null) {
    if (columns.some(({ image }) => image)) return "the images have no classes; expected a subfolder for each class";
    return `no column is called ${labelNames.join(", ")}; say which holds the labels with a map`;
  }
  const kind = options.kind ?? kindOf(sample[column]!);
  if (kind === "values") return valueLabels(column, columns, sample);
  return classLabels(column, columns[column]!.name, sample, options);
}

function kindOf(cell: Cell): "classes" | "values" {
  const value = typeof cell === "string" && cell.trim() !== "" ? Number(cell) : cell;
  if (typeof value === "number" && !Number.isNaN(value)) return Number.isInteger(value) ? "classes" : "values";
  return typeof cell === "object" && cell !== null ? "values" : "classes";
}

function noLabels(): LabelWriter {
  return {
    kind: "none",
    names: () => null,
    check: () => null,
    target: (examples) => new BigInt64Array(examples).fill(-100n),
    write: () => undefined,
    tensor: (_, examples) => tensor("int64", [examples], new BigInt64Array(examples).fill(-100n)),
  };
}

function valueLabels(column: number, columns: readonly Column[], sample: Row): LabelWriter | string {
  const input = {
    name: "labels",
    type: "float32",
    dims: ["batch", ...shapeDims(sample[column]!, columns[column]!)],
  } as const;
  const field = createField({ input, columns: [column], normalization: null }, columns, sample);
  if (typeof field === "string") return `labels: ${field}`;
  const scratch = fieldTarget(field, 1);
  return {
    kind: "values",
    names: () => null,
    check: (row) => field.write(row, scratch, 0),
    target: (examples) => fieldTarget(field, examples),
    write: (row, target, at) => throwFault(field, field.write(row, target, at)),
    tensor: (target, examples) => fieldTensor(field, target, examples),
  };
}

function shapeDims(cell: Cell, column: Column): readonly number[] {
  if (column.dims) return column.dims;
  return typeof cell === "object" && cell !== null && "length" in cell ? [(cell as ArrayLike<Cell>).length] : [];
}

function throwFault(field: Field, fault: string | null): void {
  if (fault !== null) throw new Error(`internal: a checked row has a fault in ${field.name}: ${fault}`);
}

function classLabels(
  column: number,
  name: string,
  sample: Row,
  options: LabelOptions & { readonly tableNames: readonly string[] | null },
): LabelWriter {
  const given = options.names ?? options.tableNames;
  const isText = typeof sample[column] === "string" && Number.isNaN(Number(sample[column]));
  const seen = new Set<string>();
  let known = given === null ? null : new Map(given.map((label, index) => [label, index]));
  const tableNames = options.tableNames;
  const numbered = (cell: Cell): number | null => {
    // A folder's class numbers follow its own names, which may be others than those of the training data.
    const own = tableNames !== null && typeof cell === "number" ? tableNames[cell]! : cell;
    if (typeof own === "string" && known?.has(own)) return known.get(own)!;
    if (isText || (typeof own === "string" && own.trim() === "")) return null;
    const value = typeof own === "string" || typeof own === "bigint" || typeof own === "boolean" ? Number(own) : own;
    return typeof value === "number" && Number.isInteger(value) ? value : null;
  };
  const limit = options.classes ?? given?.length ?? Number.POSITIVE_INFINITY;
  return {
    kind: "classes",
    names: () => given ?? (isText ? [...seen].sort() : null),
    check(row) {
      const cell = row[column]!;
      if (isText && given === null) {
        if (typeof cell !== "string" || cell === "") return `${name}: expected the name of a class, got ${show(cell)}`;
        seen.add(cell);
        return seen.size > (options.classes ?? 100_000)
          ? `${name}: expected ${limit} classes, got one more: ${show(cell)}`
          : null;
      }
      const value = numbered(cell);
      // -100 is what losses leave out.
      if (value !== null && (value === -100 || (value >= 0 && value < limit))) return null;
      const like = given !== null && typeof cell === "string" ? ` (near: ${nearest(cell, given, 3).join(", ")})` : "";
      const range = Number.isFinite(limit) ? `0 to ${limit - 1}` : "0 or more";
      return `${name}: expected a class, ${range}${given ? " or its name" : ""}, got ${show(cell)}${like}`;
    },
    target: (examples) => new BigInt64Array(examples),
    write(row, target, at) {
      known ??= isText ? new Map([...seen].sort().map((label, index) => [label, index])) : null;
      const value = numbered(row[column]!);
      if (value === null) throw new Error(`internal: a checked row has no class in ${name}`);
      target[at] = BigInt(value);
    },
    tensor: (target, examples) => tensor("int64", [examples], (target as BigInt64Array).subarray(0, examples)),
  };
}
