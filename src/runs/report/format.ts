// Numbers as a reader wants them: thousands separated, plurals right, a true minus sign, no digits that mean nothing.

const TIED = "\u00a0"; // no-break space: a number and its unit stay on one line
const MINUS = "\u2212";

/** A whole number with thousands separators: "2,807,010". */
export function count(value: number): string {
  if (!Number.isFinite(value)) return "not a number";
  return Math.round(value).toLocaleString("en-US").replace("-", MINUS);
}

/** A change with its sign: "+12", "−3", "0". */
export function signed(value: number): string {
  return value > 0 ? `+${count(value)}` : count(value);
}

/** A number with its noun: "1 image", "1,032 images". */
export function many(value: number, one: string, more: string = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : more}`;
}

/** A fixed number of decimals: "0.9662". */
export function fixed(value: number, decimals: number): string {
  if (!Number.isFinite(value)) return "not a number";
  return value
    .toFixed(decimals)
    .replace(/^-(?=.*[1-9])/, MINUS)
    .replace(/^-/, "");
}

/** Percent of a value that is given in percent: "0.242 %". */
export function percent(value: number, decimals = 3): string {
  return `${fixed(value, decimals)}${TIED}%`;
}

/** A share from 0 to 1 as percent, without needless zeros: 0.5 is "50 %", 0.125 is "12.5 %". */
export function share(value: number): string {
  return `${short(100 * value)}${TIED}%`;
}

/** At most `digits` significant digits, trailing zeros cut: "0.001", "12.5"; powers of ten where it is tiny or huge. */
export function short(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return "not a number";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return scientific(value);
  if (size >= 10 ** digits) return count(value);
  return String(Number(value.toPrecision(digits))).replace("-", MINUS);
}

/** Two significant digits and a power of ten: "1.2 × 10⁻⁷". */
function scientific(value: number): string {
  const [mantissa = "", exponent = ""] = value.toExponential(1).split("e");
  const raised = [...exponent.replace("+", "")].map((digit) => superscripts[digit] ?? digit).join("");
  return `${mantissa.replace(".0", "").replace("-", MINUS)}${TIED}×${TIED}10${raised}`;
}

const superscripts: Readonly<Record<string, string>> = {
  "-": "⁻",
  "0": "⁰",
  "1": "¹",
  "2": "²",
  "3": "³",
  "4": "⁴",
  "5": "⁵",
  "6": "⁶",
  "7": "⁷",
  "8": "⁸",
  "9": "⁹",
};

/** "2", "2 and 3", "2, 3 and 4". */
export function listed(items: readonly (string | number)[]): string {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`;
}

/** "12.3 s", "1 min 32 s". */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "not a number";
  if (seconds < 10) return `${fixed(seconds, 1)}${TIED}s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}${TIED}s`;
  return `${count(Math.floor(whole / 60))}${TIED}min ${whole % 60}${TIED}s`;
}

/** "23 November 2025, 20:36 UTC"; what is no date comes back as it was. */
export function moment(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return iso;
  const date = time.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
  return `${date}, ${time.toISOString().slice(11, 16)} UTC`;
}

/** How a count moved: "fell from 1,032 to 450", "rose from 3 to 9", "stayed at 107". */
export function moved(before: number, after: number): string {
  if (before === after) return `stayed at ${count(before)}`;
  return `${after < before ? "fell" : "rose"} from ${count(before)} to ${count(after)}`;
}
