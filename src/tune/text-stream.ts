// Text from tokens as they come. A token may hold part of a character, and a stop text may spread over several tokens: what may
// still change is held back until it cannot.

/** The replacement character: what a decoder writes for bytes that are no character yet. */
const incomplete = "\u{fffd}";

/**
 * Pieces of text, which joined are the decoded tokens up to the stop text that is complete first (without it). When one is, no
 * further token is asked for.
 *
 * @param decode the text of all tokens so far.
 * @example for await (const piece of textOf(decoder.generate(ids), decode, ["\n\n"])) process.stdout.write(piece);
 */
export async function* textOf(
  tokens: AsyncIterable<number>,
  decode: (tokens: readonly number[]) => string,
  stop: readonly string[] = [],
): AsyncGenerator<string, void> {
  const stops = stop.filter((text) => text !== "");
  const seen: number[] = [];
  let text = "";
  let given = 0;
  for await (const token of tokens) {
    seen.push(token);
    text = decode(seen);
    const end = firstOf(text, stops);
    const safe = end ?? text.length - heldBack(text, stops);
    if (safe > given) {
      yield text.slice(given, safe);
      given = safe;
    }
    if (end !== null) return;
  }
  if (text.length > given) yield text.slice(given);
}

/** Where the first stop text begins; null where there is none. */
function firstOf(text: string, stops: readonly string[]): number | null {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return found.length === 0 ? null : Math.min(...found);
}

/** How many characters at the end may still change or become a stop text. */
function heldBack(text: string, stops: readonly string[]): number {
  let end = text.length;
  while (end > 0 && text[end - 1] === incomplete) end--;
  const whole = text.slice(0, end);
  let begun = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, end); length > begun; length--) {
      if (whole.endsWith(stop.slice(0, length))) begun = length;
    }
  }
  return text.length - end + begun;
}
