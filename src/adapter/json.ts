// JSON as the two adapter files need it, where JSON.parse and JSON.stringify lose what matters: a reader that keeps each
// number's own text (0.0, and integers past 2^53), the order of keys, and reports duplicate keys (JSON.parse keeps the
// last silently); and a writer that prints what Python's json.dumps(indent=2, sort_keys=True) prints. Grammar: RFC 8259.

/** A number as its text in the file: what a JavaScript number would print otherwise, such as `0.0`. */
export class RawNumber {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  valueOf(): number {
    return Number(this.text);
  }

  toJSON(): number {
    return Number(this.text);
  }
}

export type JsonValue = null | boolean | string | RawNumber | JsonValue[] | JsonObject;
export type JsonObject = ReadonlyMap<string, JsonValue>;

/** Neither file nests deeper than a few levels; more is an attempt at the stack. */
const maxDepth = 32;

/**
 * Reads one JSON document. Throws a SyntaxError where it is not JSON; adds each duplicate key to `faults` and goes on.
 *
 * @example
 * parseJson('{"a": 1.0}', []) // Map { "a" => RawNumber("1.0") }
 */
export function parseJson(text: string, faults: string[]): JsonValue {
  let at = 0;
  let depth = 0;

  const fail = (expected: string): never => {
    const got = at < text.length ? quote(String.fromCodePoint(text.codePointAt(at) ?? 0)) : "the end";
    throw new SyntaxError(`expected ${expected} at character ${at}, got ${got}`);
  };

  function skipSpace(): void {
    for (; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    }
  }

  /** Consumes `character` after space, or says that it is not there. */
  function accept(character: string): boolean {
    skipSpace();
    if (text[at] !== character) return false;
    at++;
    return true;
  }

  function readString(): string {
    const start = at++;
    let escaped = false;
    for (; ; at++) {
      const code = text.charCodeAt(at); // NaN past the end
      if (code === 0x22) break;
      if (Number.isNaN(code) || code < 0x20) return fail("the end of a string");
      if (code === 0x5c) {
        escaped = true;
        at++;
      }
    }
    at++;
    if (!escaped) return text.slice(start + 1, at - 1);
    const value = unescapeString(text.slice(start, at));
    if (value === null) throw new SyntaxError(`the string at character ${start} has an escape that stands for nothing`);
    return value;
  }

  function readNumber(): RawNumber {
    numberPattern.lastIndex = at;
    const found = numberPattern.exec(text)?.[0] ?? fail("a value");
    at += found.length;
    return new RawNumber(found);
  }

  function readArray(): JsonValue[] {
    at++;
    const values: JsonValue[] = [];
    if (accept("]")) return values;
    do values.push(readValue());
    while (accept(","));
    if (!accept("]")) fail("',' or ']'");
    return values;
  }

  function readObject(): JsonObject {
    at++;
    const values = new Map<string, JsonValue>();
    if (accept("}")) return values;
    do {
      skipSpace();
      if (text[at] !== '"') fail("a key");
      const key = readString();
      if (!accept(":")) fail("':'");
      if (values.has(key)) faults.push(`duplicate key ${quote(key)}: each may be there once`);
      values.set(key, readValue());
    } while (accept(","));
    if (!accept("}")) fail("',' or '}'");
    return values;
  }

  function readNested<T>(read: () => T): T {
    if (++depth > maxDepth) throw new SyntaxError(`nested deeper than ${maxDepth} levels at character ${at}`);
    const value = read();
    depth--;
    return value;
  }

  function readValue(): JsonValue {
    skipSpace();
    switch (text[at]) {
      case "{":
        return readNested(readObject);
      case "[":
        return readNested(readArray);
      case '"':
        return readString();
    }
    for (const [word, value] of words) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return value;
      }
    }
    return readNumber();
  }

  const value = readValue();
  skipSpace();
  if (at < text.length) fail("the end");
  return value;
}

const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

const words: readonly (readonly [string, null | boolean])[] = [
  ["null", null],
  ["true", true],
  ["false", false],
];

/** A string literal's value; null for a bad escape or half of a surrogate pair, which UTF-8 cannot write. */
function unescapeString(literal: string): string | null {
  try {
    const value: unknown = JSON.parse(literal);
    return typeof value === "string" && isWellFormed(value) ? value : null;
  } catch {
    return null;
  }
}

/** No half of a surrogate pair stands alone: the text can be written as UTF-8 and read again. */
export function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}

/** The text of UTF-8 bytes; null where they are not UTF-8. A byte order mark is kept, and is no JSON. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** A name from a file, for a message: escaped, and cut where it is long. */
export function quote(name: string): string {
  return name.length <= 120
    ? JSON.stringify(name)
    : `${JSON.stringify(name.slice(0, 120))}… (${name.length} characters)`;
}

/** A JSON value in a few words, for a message. */
export function describe(value: JsonValue | undefined): string {
  if (value === undefined) return "nothing";
  if (typeof value === "string") return quote(value);
  if (value instanceof RawNumber) return value.text.length <= 40 ? value.text : `${value.text.slice(0, 40)}…`;
  if (value instanceof Map) return value.size === 0 ? "{}" : "an object";
  if (Array.isArray(value)) return value.length === 0 ? "[]" : `a list of ${value.length}`;
  return String(value);
}

/** Plain JavaScript values; a number stays a RawNumber where `pythonNumber` would not print its text again. */
export function toPlain(value: JsonValue): unknown {
  if (value instanceof RawNumber) {
    const number = value.valueOf();
    return Number.isFinite(number) && pythonNumber(number) === value.text ? number : value;
  }
  if (value instanceof Map) return Object.fromEntries(Array.from(value, ([key, item]) => [key, toPlain(item)]));
  if (Array.isArray(value)) return value.map(toPlain);
  return value;
}

/**
 * What Python's `json.dumps(value, indent=2, sort_keys=True)` prints, for null, booleans, numbers, RawNumber, strings,
 * arrays, plain objects, and Maps, whose order is kept.
 *
 * @example
 * pythonJson({ r: 8, name: "é" }) // '{\n  "name": "\\u00e9",\n  "r": 8\n}'
 */
export function pythonJson(value: unknown, indent = ""): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (value instanceof RawNumber) return value.text;
  if (typeof value === "number") return pythonNumber(value);
  if (typeof value === "string") return pythonString(value);
  const inner = `${indent}  `;
  const block = (open: string, items: readonly string[], close: string): string =>
    items.length === 0 ? open + close : `${open}\n${inner}${items.join(`,\n${inner}`)}\n${indent}${close}`;
  if (Array.isArray(value)) {
    return block(
      "[",
      value.map((item) => pythonJson(item, inner)),
      "]",
    );
  }
  if (typeof value !== "object") throw new Error(`internal: ${typeof value} is no JSON value`);
  const entries: [string, unknown][] =
    value instanceof Map ? [...value] : Object.entries(value).sort(([a], [b]) => compareCodePoints(a, b));
  return block(
    "{",
    entries.map(([key, item]) => `${pythonString(key)}: ${pythonJson(item, inner)}`),
    "}",
  );
}

/** Python escapes everything but printable ASCII (ensure_ascii). */
function pythonString(text: string): string {
  return JSON.stringify(text).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Python's repr: of an int where the number is a safe integer, of a float otherwise (exponent below 1e-4 and from 1e16). */
export function pythonNumber(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`internal: ${value} is no JSON number`);
  if (Object.is(value, -0)) return "-0.0";
  if (Number.isSafeInteger(value)) return String(value);
  const [mantissa = "", exponent = "0"] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power < -4 || power >= 16) {
    return `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  }
  // JavaScript writes small numbers out down to 1e-6 and large ones up to 1e21, so no exponent is left here.
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** The order of UTF-8 bytes, which is that of code points: Rust's and Python's. JavaScript compares UTF-16 units. */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = unitOrder(a.charCodeAt(i)) - unitOrder(b.charCodeAt(i));
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Surrogates stand for code points above all that one unit can hold. */
function unitOrder(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}
