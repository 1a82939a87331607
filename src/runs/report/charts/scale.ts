// Axes: where ticks go and where a value lies. Nice numbers after Heckbert, "Nice Numbers for Graph Labels"
// (Graphics Gems, 1990): steps of 1, 2 or 5 times a power of ten.

/** An axis from 0 to a round end that holds every value. */
export interface Axis {
  /** 0, step, 2 step, …, end. */
  readonly ticks: readonly number[];
  readonly end: number;
}

/**
 * An axis from zero that holds `largest`, with about `wanted` steps of 1, 2 or 5 times a power of ten.
 * With `whole`, steps are at least 1. A largest value of zero or less, or none at all, gives an axis to 1.
 */
export function axisFromZero(largest: number, wanted = 5, whole = false): Axis {
  const reach = Number.isFinite(largest) && largest > 0 ? largest : 1;
  const step = Math.max(niceStep(reach / wanted), whole ? 1 : 0);
  const steps = Math.max(1, Math.ceil(reach / step - 1e-9));
  // Multiplying and then rounding keeps 0.3 from becoming 0.30000000000000004.
  const ticks = Array.from({ length: steps + 1 }, (_, index) => Number((index * step).toPrecision(12)));
  return { ticks, end: ticks[steps]! };
}

/** The smallest of 1, 2, 5 and 10 times a power of ten that is not under `rough`. */
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= rough * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** A straight mapping of [0, end] onto pixels [from, to]. */
export function linear(end: number, from: number, to: number): (value: number) => number {
  return (value) => from + (value / end) * (to - from);
}

/** A coordinate as SVG text: one decimal is a tenth of a pixel, which is as fine as anyone sees. */
export function px(value: number): string {
  return String(Number(value.toFixed(1)));
}

/** About how wide a text is, in pixels: wide enough for every common system font. */
export function textWidth(text: string, size: number): number {
  return [...text].length * size * 0.62;
}
