// Plain text for people: tables with aligned columns, and numbers as they are read aloud. Nothing depends on the
// locale: the same run prints the same characters everywhere.
import { stripVTControlCharacters } from "node:util";

export interface Column {
  header: string;
  /** Default: left. */
  align?: "left" | "right";
  /** Columns of text that it takes at least. */
  minWidth?: number;
}

/** A line across the whole table, drawn with this character. */
export type Rule = "-" | "=";

export interface TableOptions {
  /** Put before every line; default none. */
  indent?: string;
  /** Spaces between columns; default 2. */
  gap?: number;
  /** The line below the header; default "-", null for none. */
  headerRule?: Rule | null;
}

/**
 * A table as lines joined by newlines, with no newline at the end and no spaces at the ends of lines. Cells may be
 * coloured; a row may be a rule. Headers that are all empty are left out, with their rule.
 *
 * @example
 * formatTable([{ header: "digit" }, { header: "wrong", align: "right" }], [["9", "107"], "-", ["all", "468"]])
 */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[] | Rule)[],
  options: TableOptions = {},
): string {
  const { indent = "", gap = 2, headerRule = "-" } = options;
  const cells = rows.map((row) => (typeof row === "string" ? row : row.map(oneLine)));
  const widths = columns.map((column) => Math.max(column.minWidth ?? 0, displayWidth(column.header)));
  for (const row of cells) {
    if (typeof row === "string") continue;
    if (row.length > columns.length) throw new Error(`internal: ${row.length} cells for ${columns.length} columns`);
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i]!, displayWidth(cell));
  }
  const total = widths.reduce((sum, width) => sum + width, gap * Math.max(0, columns.length - 1));
  const line = (row: readonly string[]): string => {
    const padded = columns.map((column, i) => pad(row[i] ?? "", widths[i]!, column.align ?? "left"));
    return (indent + padded.join(" ".repeat(gap))).trimEnd();
  };
  const rule = (character: Rule): string => indent + character.repeat(total);
  const header = columns.some((column) => column.header !== "")
    ? [line(columns.map((column) => column.header)), ...(headerRule === null ? [] : [rule(headerRule)])]
    : [];
  return [...header, ...cells.map((row) => (typeof row === "string" ? rule(row) : line(row)))].join("\n");
}

/** How many columns of a terminal `text` takes: escape codes and combining marks none, East Asian letters and emoji two. */
export function displayWidth(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const character of stripVTControlCharacters(text)) {
    if (/[\p{Mark}\p{Control}\p{Format}]/u.test(character)) continue;
    width += isWide(character.codePointAt(0)!) ? 2 : 1;
  }
  return width;
}

/** 1234567 as "1,234,567"; rounded to a whole number. */
export function formatCount(value: number | bigint): string {
  const digits = String(typeof value === "bigint" || !Number.isFinite(value) ? value : BigInt(Math.round(value)));
  return digits.replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A share of 1 as percent: 0.953 is "95.3 %". */
export function formatPercent(share: number, decimals = 1): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(decimals)} %` : "n/a";
}

/** Seconds in words: "340 ms", "12.3 s", "2 min 05 s", "1 h 02 min". */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "n/a";
  const ms = Math.round(1000 * seconds);
  if (ms < 1000) return `${ms} ms`;
  const tenths = Math.round(10 * seconds);
  if (tenths < 600) return `${(tenths / 10).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${twoDigits(whole % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${twoDigits(minutes % 60)} min`;
}

/** Seconds as a clock: "0:12", "1:02:03". */
export function formatClock(seconds: number): string {
  if (!Number.isFinite(seconds)) return "-:--";
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = twoDigits(whole % 60);
  return hours > 0 ? `${hours}:${twoDigits(minutes)}:${tail}` : `${minutes}:${tail}`;
}

/** Bytes in powers of 1024, three digits: "512 B", "26.5 KiB", "10.7 MiB". */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  // 999.5 would be rounded to four digits.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const decimals = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(decimals)} ${units[unit]}`;
}

function oneLine(cell: string): string {
  return cell.replace(/\s*[\r\n]+\s*/g, " ");
}

function pad(cell: string, width: number, align: "left" | "right"): string {
  const space = " ".repeat(Math.max(0, width - displayWidth(cell)));
  return align === "right" ? space + cell : cell + space;
}

function twoDigits(value: number): string {
  return String(value).padStart(2, "0");
}

/** Code points that terminals draw two columns wide: the blocks of Unicode's East Asian Width W and F, roughly. */
const wideRanges: readonly (readonly [first: number, last: number])[] = [
  [0x1100, 0x115f], // Hangul Jamo
  [0x2e80, 0xa4cf], // CJK, kana, Yi
  [0xac00, 0xd7a3], // Hangul
  [0xf900, 0xfaff], // CJK compatibility
  [0xfe30, 0xfe6f],
  [0xff00, 0xff60], // full-width forms
  [0xffe0, 0xffe6],
  [0x1f300, 0x1faff], // emoji
  [0x20000, 0x3fffd], // CJK extensions
];

function isWide(codePoint: number): boolean {
  return wideRanges.some(([first, last]) => codePoint >= first && codePoint <= last);
}
