// Numbers and names as the page writes them.

export function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

export function percent(share: number, digits = 0): string {
  // Held together by a space that does not break.
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1_000_000
    ? `${(bytes / 1000).toFixed(bytes < 10_000 ? 1 : 0)} kB`
    : `${(bytes / 1_000_000).toFixed(2)} MB`;
}

/** Two decimals, with a true minus. */
export function decimal(value: number, digits = 2): string {
  return value.toFixed(digits).replace("-", "\u2212");
}

/** As `decimal`, with its sign. */
export function signed(value: number, digits = 2): string {
  return `${value < 0 ? "" : "+"}${decimal(value, digits)}`;
}

/** Softmax: logits as shares of confidence. */
export function shares(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits);
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

export function largest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}
