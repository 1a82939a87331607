// The kinds of options: what a value of each must be, and what a JSON schema says of it.
import type { OptionRow } from "./option-table.ts";

interface Kind {
  /** What is wrong with a value; null when nothing is. */
  fault(row: OptionRow, value: unknown): string | null;
  /** The row's part of a JSON schema, beside description and default. */
  schema(row: OptionRow): Record<string, unknown>;
}

export const kinds: Readonly<Record<OptionRow["kind"], Kind>> = {
  number: { fault: numberFault, schema: numberSchema },
  integer: { fault: numberFault, schema: numberSchema },
  text: {
    fault: (_row, value) => expected("text", typeof value === "string" && value !== "", value),
    schema: (row) => ({ ...common(row), type: orNull(row, "string"), minLength: 1 }),
  },
  choice: {
    fault: (row, value) => expected(choicesOf(row).join(", "), choicesOf(row).includes(value as string), value),
    schema: (row) => ({ ...common(row), enum: [...choicesOf(row), ...(row.default === null ? [null] : [])] }),
  },
  flag: {
    fault: (_row, value) => expected("true or false", typeof value === "boolean", value),
    schema: (row) => ({ ...common(row), type: "boolean" }),
  },
  texts: {
    fault: (_row, value) => expected("a list of texts", isListOf(value, "string"), value),
    schema: (row) => listSchema(row, "string"),
  },
  numbers: {
    fault: (_row, value) => expected("a list of numbers", isListOf(value, "number"), value),
    schema: (row) => listSchema(row, "number"),
  },
  table: {
    fault: (_row, value) => {
      const isMapping = value !== null && typeof value === "object" && !Array.isArray(value);
      return expected("a mapping of names to numbers", isMapping && isListOf(Object.values(value), "number"), value);
    },
    schema: (row) => ({ ...common(row), type: "object", additionalProperties: { type: "number" } }),
  },
};

/** Whether one value may stand for a list of one. */
export function isList({ kind }: OptionRow): boolean {
  return kind === "texts" || kind === "numbers";
}

/** A value as it is in a message. */
export function show(value: unknown): string {
  const text = String(JSON.stringify(value));
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}

function expected(what: string, holds: boolean, value: unknown): string | null {
  return holds ? null : `expected ${what}, got ${show(value)}`;
}

interface Bounds {
  readonly from?: number;
  readonly to?: number;
  readonly open?: true;
}

function numberFault(row: OptionRow, value: unknown): string | null {
  const { from, to, open } = row as Bounds;
  const isWhole = row.kind === "integer";
  const isNumber = typeof value === "number" && (isWhole ? Number.isSafeInteger(value) : Number.isFinite(value));
  const isAbove = from === undefined || (isNumber && (open ? value > from : value >= from));
  const isBelow = to === undefined || (isNumber && value <= to);
  const bounds = [
    from === undefined ? [] : [open ? `above ${from}` : `from ${from}`],
    to === undefined ? [] : [`up to ${to}`],
  ];
  const what = [isWhole ? "a whole number" : "a number", ...bounds.flat()].join(" ");
  return expected(what, isNumber && isAbove && isBelow, value);
}

function numberSchema(row: OptionRow): Record<string, unknown> {
  const { from, to, open } = row as Bounds;
  const lower = from === undefined ? {} : open ? { exclusiveMinimum: from } : { minimum: from };
  return { ...common(row), type: orNull(row, row.kind), ...lower, ...(to !== undefined && { maximum: to }) };
}

function listSchema(row: OptionRow, type: "string" | "number"): Record<string, unknown> {
  const none = row.default === null ? [{ type: "null" }] : [];
  return { ...common(row), anyOf: [{ type: "array", items: { type } }, { type }, ...none] };
}

function common({ about, default: value }: OptionRow): Record<string, unknown> {
  return { description: about, default: value };
}

function orNull({ default: value }: OptionRow, type: string): unknown {
  return value === null ? [type, "null"] : type;
}

function choicesOf(row: OptionRow): readonly string[] {
  return "choices" in row ? row.choices : [];
}

function isListOf(value: unknown, type: "string" | "number"): boolean {
  const isItem = (item: unknown): boolean =>
    type === "string" ? typeof item === "string" : typeof item === "number" && Number.isFinite(item);
  return Array.isArray(value) && value.every(isItem);
}
