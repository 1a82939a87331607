// Filters as text: `label=9`, `label!=9`, `length<512`, `label in 3,8`. Numbers are compared as numbers, anything else as text.
import { LowrankError } from "../errors.ts";
import { nearest } from "../nearest.ts";
import type { Cell, Column, Row } from "./table.ts";

type Operator = "=" | "!=" | "<" | "<=" | ">" | ">=" | "in";

const pattern = /^\s*(.+?)\s*(!=|<=|>=|=|<|>|\sin\s)\s*(.*?)\s*$/s;

/**
 * The test that a filter stands for.
 *
 * @throws LowrankError "config" when it is no filter, or names no column.
 */
export function parseFilter(
  text: string,
  columns: readonly Column[],
  labels: readonly string[] | null,
): (row: Row) => boolean {
  const [, name, sign, right] = pattern.exec(text) ?? [];
  if (name === undefined || right === undefined || right === "") {
    throw new LowrankError(
      "config",
      `filter ${text}: expected a column, one of = != < <= > >= in, and a value; as label=9`,
    );
  }
  const column = columns.findIndex((candidate) => candidate.name === name);
  if (column < 0) {
    const names = columns.map((candidate) => candidate.name);
    throw new LowrankError(
      "config",
      `filter ${text}: there is no column ${name} (near: ${nearest(name, names, 3).join(", ")})`,
    );
  }
  const operator = sign!.trim() as Operator;
  const values = operator === "in" ? right.split(",").map((value) => value.trim()) : [right];
  // In a folder of images by class, names stand for the class numbers.
  const compare = values.map((value) => comparison(labels?.includes(value) ? String(labels.indexOf(value)) : value));
  const first = compare[0]!;
  const tests: { readonly [K in Operator]: (cell: Cell) => boolean } = {
    "=": (cell) => first(cell) === 0,
    "!=": (cell) => first(cell) !== 0,
    "<": (cell) => first(cell) < 0,
    "<=": (cell) => first(cell) <= 0,
    ">": (cell) => first(cell) > 0,
    ">=": (cell) => first(cell) >= 0,
    in: (cell) => compare.some((same) => same(cell) === 0),
  };
  const test = tests[operator];
  return (row) => test(row[column]!);
}

/** Compares a cell with the value: negative, 0, positive; NaN where the two cannot be compared. */
function comparison(value: string): (cell: Cell) => number {
  const number = Number(value);
  return (cell) => {
    if (cell === null || (typeof cell === "object" && cell !== null)) return Number.NaN;
    const left = typeof cell === "string" && cell.trim() === "" ? Number.NaN : Number(cell);
    if (!(Number.isNaN(left) || Number.isNaN(number))) return left - number;
    const text = String(cell);
    return text === value ? 0 : text < value ? -1 : 1;
  };
}
