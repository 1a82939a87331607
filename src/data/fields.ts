// From the cells of a row to the tensors of a batch: which columns feed which input of the model, whether their shapes fit,
// and how values are normalized on the way: (x * scale - mean) / std, channel by channel.
import { nearest } from "../nearest.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { Cell, Column, Floats, Row } from "./table.ts";

/** An input of the model: its first dimension is the batch; names and -1 stand for dimensions that are free. */
export interface InputShape {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly (number | string | null)[];
}

export interface Normalization {
  /** What values are multiplied by first. Default: 1/255 for images and arrays of bytes, else 1. */
  readonly scale?: number;
  /** Subtracted then; one number, or one for each channel. Default 0. */
  readonly mean?: readonly number[];
  /** What values are divided by at last. Default 1. */
  readonly std?: readonly number[];
}

/** Writes one part of a row into a batch. */
export interface Field {
  readonly name: string;
  readonly type: TensorType;
  /** Shape of one example. */
  readonly dims: readonly number[];
  /** Elements of one example. */
  readonly width: number;
  /** The columns that it reads. */
  readonly columns: readonly number[];
  /** Writes example `at`; returns what is wrong with the row, or null. */
  write(row: Row, target: Numbers, at: number): string | null;
}

/** Any typed array, as numbers; arrays of bigint are written through `wide`. */
export interface Numbers {
  readonly length: number;
  [index: number]: number | bigint;
}

/** Where the columns of an input are: one column with its whole array, or one for each element. */
export function matchColumns(
  input: InputShape,
  columns: readonly Column[],
  taken: ReadonlySet<number>,
  options: { readonly mapped: string | undefined; readonly only: boolean },
): readonly number[] | string {
  const names = columns.map(({ name }) => name);
  if (options.mapped !== undefined) return mappedColumns(options.mapped, names);
  const same = names.indexOf(input.name);
  if (same >= 0) return [same];
  const numbered = numberedColumns(input.name, names);
  if (numbered.length > 0) return numbered;
  const free = names.flatMap((_, index) => (taken.has(index) ? [] : [index]));
  if (options.only && free.length > 0) return free;
  const like = nearest(input.name, names, 3);
  return `no column is called ${input.name}; say which with a map${like.length > 0 ? ` (near: ${like.join(", ")})` : ""}`;
}

/** `image`, `a,b,c` or `pixel*`. */
function mappedColumns(mapped: string, names: readonly string[]): readonly number[] | string {
  const found: number[] = [];
  for (const part of names.includes(mapped) ? [mapped] : mapped.split(",").map((name) => name.trim())) {
    const some = part.endsWith("*") ? numberedColumns(part.slice(0, -1), names) : [names.indexOf(part)];
    if (some.length === 0 || some[0] === -1) {
      return `there is no column ${part}; there are ${names.slice(0, 10).join(", ")}${names.length > 10 ? ", …" : ""}`;
    }
    found.push(...some);
  }
  return found;
}

/** Columns called `prefix` and a number, by that number. */
function numberedColumns(prefix: string, names: readonly string[]): number[] {
  const found = names.flatMap((name, index) => {
    const rest = name.startsWith(prefix) ? name.slice(prefix.length).replace(/^[_.]/, "") : "";
    return /^\d+$/.test(rest) ? [{ index, number: Number(rest) }] : [];
  });
  return found.sort((a, b) => a.number - b.number).map(({ index }) => index);
}

/** What is known of a field before its first row is seen. */
export interface FieldPlan {
  readonly input: InputShape;
  readonly columns: readonly number[];
  readonly normalization: Normalization | null;
}

/** The field of an input, its free dimensions decided by `sample`; or what does not fit. */
export function createField(plan: FieldPlan, columns: readonly Column[], sample: Row): Field | string {
  const { input, normalization } = plan;
  const dims = exampleDims(plan, columns, sample);
  if (typeof dims === "string") return dims;
  const width = dims.reduce((product, dim) => product * dim, 1);
  if (plan.columns.length > 1 && plan.columns.length !== width) {
    return `expected ${width} columns for [${dims}], got ${plan.columns.length}`;
  }
  const scaled = normalization === null ? null : affine(normalization, dims, isBytes(plan, columns, sample));
  if (typeof scaled === "string") return scaled;
  const names = columns.map(({ name }) => name);
  const write = plan.columns.length > 1 || width === 1 ? scalarWriter : arrayWriter;
  return {
    name: input.name,
    type: input.type,
    dims,
    width,
    columns: plan.columns,
    write: write({ columns: plan.columns, names, width, type: input.type, affine: scaled }),
  };
}

/** A batch's tensor over `target`, which has room for it. */
export function fieldTensor(field: Field, target: Numbers, examples: number): Tensor {
  const whole = target as Float32Array;
  const data = whole.length === examples * field.width ? whole : whole.subarray(0, examples * field.width);
  return tensor<TensorType>(field.type, [examples, ...field.dims], data);
}

/** Room for some examples. */
export function fieldTarget(field: Field, examples: number): Numbers {
  return fromBytes(field.type, new Uint8Array(examples * field.width * elementBytes(field.type)));
}

/** Shape of one example: the model's, with free dimensions from the column's own shape. */
function exampleDims({ input, columns: used }: FieldPlan, columns: readonly Column[], sample: Row): number[] | string {
  const wanted = input.dims.slice(1).map((dim) => (typeof dim === "number" && dim >= 0 ? dim : null));
  const own = used.length > 1 ? [used.length] : (columns[used[0]!]!.dims ?? shapeOf(sample[used[0]!]!));
  if (columns[used[0]!]!.image)
    return wanted.every((dim) => dim !== null) ? (wanted as number[]) : "expected an image size";
  const count = own.reduce((product, dim) => product * dim, 1);
  const known = wanted.reduce<number>((product, dim) => product * (dim ?? 1), 1);
  const free = wanted.filter((dim) => dim === null).length;
  const shape = `[${input.dims.slice(1).map((dim) => dim ?? "?")}]`;
  if (free > 1 && own.length === wanted.length) return [...own];
  if (free > 1) return `expected an array of shape ${shape} for each example, got [${own}]`;
  if (free === 0 ? known !== count : count % known !== 0) {
    const hint = own.length === 0 && known > 1 ? `; a map names several columns: ${input.name}=a,b` : "";
    return `expected ${shape} for each example, got [${own}] (${count} values)${hint}`;
  }
  return wanted.map((dim) => dim ?? count / known);
}

function shapeOf(cell: Cell): number[] {
  if (typeof cell !== "object" || cell === null || !("length" in cell)) return [];
  const items = cell as ArrayLike<Cell>;
  return [items.length, ...(items.length > 0 ? shapeOf(items[0]!) : [])];
}

function isBytes({ columns: used }: FieldPlan, columns: readonly Column[], sample: Row): boolean {
  return columns[used[0]!]!.image === true || sample[used[0]!] instanceof Uint8Array;
}

/** x * factor[c] + shift[c], c being the channel of element i: floor(i / inner) % channels. */
interface Affine {
  readonly scale: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly inner: number;
  /** For bytes: the result of each value and channel. */
  readonly table: Float32Array;
}

function affine(normalization: Normalization, dims: readonly number[], bytes: boolean): Affine | string | null {
  const scale = normalization.scale ?? (bytes ? 1 / 255 : 1);
  const mean = normalization.mean ?? [0];
  const std = normalization.std ?? [1];
  if (scale === 1 && mean.every((value) => value === 0) && std.every((value) => value === 1)) return null;
  if (![...mean, ...std].every(Number.isFinite) || std.includes(0)) {
    return `expected finite numbers for the mean, and for the std others than 0, got ${mean} and ${std}`;
  }
  const count = Math.max(mean.length, std.length);
  const layout = channelLayout(dims);
  if (count > 1 && layout?.channels !== count) {
    return `expected a mean and std for each of ${layout?.channels ?? 1} channels, got ${count}`;
  }
  const inner = count === 1 ? Number.POSITIVE_INFINITY : layout!.inner;
  const [means, stds] = [mean, std].map((list) =>
    Array.from({ length: count }, (_, c) => list[list.length === 1 ? 0 : c]!),
  );
  const table = Float32Array.from({ length: 256 * count }, (_, at) =>
    normalized(at % 256, Math.floor(at / 256), { scale, mean: means!, std: stds! }),
  );
  return { scale, mean: means!, std: stds!, inner, table };
}

/** Each step rounded to float32, as torchvision's ToTensor and Normalize do it. */
function normalized(value: number, c: number, { scale, mean, std }: Pick<Affine, "scale" | "mean" | "std">): number {
  const { fround } = Math;
  // Dividing by 255 and multiplying by 1/255 differ in the last bit.
  const scaled = fround(scale === 1 / 255 ? value / 255 : value * scale);
  return standardized(scaled, fround(mean[c]!), fround(std[c]!));
}

/** Of float32 mean and std. */
function standardized(value: number, mean: number, std: number): number {
  return Math.fround(Math.fround(Math.fround(value) - mean) / std);
}

/** Where channels are in [C, H, W] or [H, W, C]. */
export function channelLayout(dims: readonly number[]): { channels: number; inner: number; last: boolean } | null {
  if (dims.length !== 3) return null;
  const first = { channels: dims[0]!, inner: dims[1]! * dims[2]!, last: false };
  const last = { channels: dims[2]!, inner: 1, last: true };
  const isColour = (dim: number): boolean => dim === 3 || dim === 4;
  // One channel is told from one row or column of pixels only where no side says colour.
  if (isColour(dims[0]!)) return first;
  if (isColour(dims[2]!)) return last;
  return dims[0] === 1 ? first : dims[2] === 1 ? last : null;
}

interface Writing {
  readonly columns: readonly number[];
  readonly names: readonly string[];
  readonly width: number;
  readonly type: TensorType;
  readonly affine: Affine | null;
}

const ranges: { readonly [K in TensorType]?: readonly [number, number] } = {
  int8: [-128, 127],
  uint8: [0, 255],
  int16: [-32768, 32767],
  uint16: [0, 65535],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint32: [0, 2 ** 32 - 1],
  bool: [0, 1],
};

/** A cell as a number, or NaN. */
export function cellNumber(cell: Cell): number {
  if (typeof cell === "number") return cell;
  if (typeof cell === "string") return cell.trim() === "" ? Number.NaN : Number(cell);
  if (typeof cell === "bigint" || typeof cell === "boolean") return Number(cell);
  const items = typeof cell === "object" && cell !== null && "length" in cell ? (cell as ArrayLike<Cell>) : null;
  return items?.length === 1 ? cellNumber(items[0]!) : Number.NaN;
}

function store({
  type,
  affine: scaled,
}: Writing): (target: Numbers, at: number, value: number, element: number) => boolean {
  const wide = type === "int64" || type === "uint64";
  const isFloat = type === "float32" || type === "float64";
  const [low, high] = ranges[type] ?? [-(2 ** 53), 2 ** 53];
  return (target, at, value, element) => {
    if (isFloat ? !Number.isFinite(value) : !(Number.isInteger(value) && value >= low && value <= high)) return false;
    if (scaled !== null) {
      target[at] = normalized(value, Math.floor(element / scaled.inner) % scaled.mean.length, scaled);
    } else target[at] = wide ? BigInt(value) : value;
    // What is finite as it is written may be beyond float32.
    return !isFloat || Number.isFinite(target[at]);
  };
}

/** A column for each element. */
function scalarWriter(writing: Writing): Field["write"] {
  const { columns, names, width, type } = writing;
  const put = store(writing);
  const adjacent = columns.every((column, index) => column === columns[0]! + index);
  return (row, target, at) => {
    const numbers = row instanceof Float32Array ? row : row.numbers;
    if (adjacent && type === "float32" && numbers !== undefined) {
      // Numbers in arrays take half the time by this way; what is not finite is left to the other, to be named.
      const cells = numbers.subarray(columns[0], columns[0]! + width);
      if (copyNumbers(cells, target as Float32Array, at * width, writing.affine)) return null;
    }
    for (let element = 0; element < width; element++) {
      const cell = cellOf(row, columns[element]!);
      if (!put(target, at * width + element, cellNumber(cell), element)) {
        return `${names[columns[element]!]}: expected a number for ${type}, got ${show(cell)}`;
      }
    }
    return null;
  };
}

function cellOf(row: Row, column: number): Cell {
  const number = row.numbers?.[column];
  return number === undefined || Number.isNaN(number) ? row[column]! : number;
}

/** As `store` does it for float32. False when a number is not finite, or there are channels to tell apart. */
function copyNumbers(cells: Floats, target: Float32Array, start: number, scaled: Affine | null): boolean {
  if (scaled !== null && scaled.mean.length > 1) return false;
  const { scale } = scaled ?? { scale: 1 };
  const mean = Math.fround(scaled?.mean[0] ?? 0);
  const std = Math.fround(scaled?.std[0] ?? 1);
  let faults = 0;
  // A loop for each: to choose at each number takes half as long again.
  if (scale === 1 / 255) {
    for (let at = 0; at < cells.length; at++) {
      const written = standardized(cells[at]! / 255, mean, std);
      target[start + at] = written;
      faults += written - written; // NaN for what is not finite
    }
  } else {
    for (let at = 0; at < cells.length; at++) {
      const written = standardized(cells[at]! * scale, mean, std);
      target[start + at] = written;
      faults += written - written;
    }
  }
  return faults === 0;
}

/** One column with all elements. */
function arrayWriter(writing: Writing): Field["write"] {
  const { columns, names, width, type, affine: scaled } = writing;
  const put = store(writing);
  const column = columns[0]!;
  return (row, target, at) => {
    const cell = row[column]!;
    if (cell instanceof Uint8Array && cell.length === width && type === "float32") {
      writeBytes(cell, target as Float32Array, at * width, scaled);
      return null;
    }
    if ((cell instanceof Float64Array || cell instanceof Float32Array) && cell.length === width && type === "float32") {
      if (copyNumbers(cell, target as Float32Array, at * width, scaled)) return null;
    }
    const items = flatten(cell, width);
    if (items === null || items.length !== width) {
      return `${names[column]}: expected ${width} numbers, got ${items === null ? show(cell) : items.length}`;
    }
    for (let element = 0; element < width; element++) {
      const item = items[element]!;
      if (!put(target, at * width + element, cellNumber(item), element)) {
        return `${names[column]}: expected numbers for ${type}, got ${show(item)} as element ${element}`;
      }
    }
    return null;
  };
}

function writeBytes(bytes: Uint8Array, target: Float32Array, start: number, scaled: Affine | null): void {
  if (scaled === null) {
    target.set(bytes, start);
    return;
  }
  const { table, inner, mean } = scaled;
  if (mean.length === 1) {
    for (let at = 0; at < bytes.length; at++) target[start + at] = table[bytes[at]!]!;
    return;
  }
  for (let at = 0; at < bytes.length; at++) {
    target[start + at] = table[256 * (Math.floor(at / inner) % mean.length) + bytes[at]!]!;
  }
}

/** The numbers of nested arrays in one list; no deeper and no longer than a tensor could be. */
function flatten(cell: Cell, most: number): ArrayLike<Cell> | null {
  if (typeof cell !== "object" || cell === null || !("length" in cell)) return null;
  if (ArrayBuffer.isView(cell) || !Array.isArray((cell as readonly Cell[])[0])) return cell as ArrayLike<Cell>;
  const flat = (cell as readonly Cell[]).flat(8) as readonly Cell[];
  return flat.length > most ? flat.slice(0, most + 1) : flat;
}

/** A cell in a message. */
export function show(cell: Cell | undefined): string {
  if (cell === undefined || cell === null) return "nothing";
  // JSON has no NaN and no large integers.
  const text = typeof cell === "number" || typeof cell === "bigint" ? String(cell) : JSON.stringify(cell);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
