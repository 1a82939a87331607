import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { textOf } from "./text-stream.ts";

async function* each(tokens: readonly number[], asked: number[] = []): AsyncGenerator<number> {
  for (const token of tokens) {
    asked.push(token);
    yield token;
  }
}

const words = ["He", "llo", " wor", "ld", "\n", "\n", "more"];
const decodeWords = (tokens: readonly number[]): string => tokens.map((token) => words[token]).join("");

/** Tokens are bytes of UTF-8. */
const decodeBytes = (tokens: readonly number[]): string => new TextDecoder().decode(Uint8Array.from(tokens));

async function piecesOf(...args: Parameters<typeof textOf>): Promise<string[]> {
  const pieces: string[] = [];
  for await (const piece of textOf(...args)) pieces.push(piece);
  return pieces;
}

describe("textOf", () => {
  it("gives each token's text at once where nothing can change it", async () => {
    expect(await piecesOf(each([0, 1, 2, 3]), decodeWords)).toEqual(["He", "llo", " wor", "ld"]);
  });

  it("ends before a stop text that spreads over tokens, and asks for no token after it", async () => {
    const asked: number[] = [];
    expect(await piecesOf(each([0, 1, 4, 5, 6], asked), decodeWords, ["\n\n"])).toEqual(["He", "llo"]);
    expect(asked).toEqual([0, 1, 4, 5]);
    expect(await piecesOf(each([0, 1, 2]), decodeWords, ["lo w", "zzz"])).toEqual(["He", "l"]);
  });

  it("gives what looked like the beginning of a stop text, when it was none", async () => {
    expect(await piecesOf(each([0, 4, 1]), decodeWords, ["\n\n"])).toEqual(["He", "\nllo"]);
    expect(await piecesOf(each([0, 4]), decodeWords, ["\n\n"])).toEqual(["He", "\n"]);
  });

  it("holds back half a character", async () => {
    const bytes = [...new TextEncoder().encode("é€")];
    expect(await piecesOf(each(bytes), decodeBytes)).toEqual(["é", "€"]);
  });

  it("is the text up to the first stop text, however it is cut", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: fc.constantFrom("a", "b", "é", "€") }),
        fc.array(fc.string({ unit: fc.constantFrom("a", "b", "é"), minLength: 1, maxLength: 3 }), { maxLength: 3 }),
        async (text, stops) => {
          const bytes = [...new TextEncoder().encode(text)];
          // Of two stop texts that overlap, the one that is complete first ends it.
          const starts = (length: number): number[] =>
            stops.map((stop) => text.slice(0, length).indexOf(stop)).filter((at) => at >= 0);
          const lengths = Array.from({ length: text.length + 1 }, (_, length) => length);
          const end = lengths.find((length) => starts(length).length > 0);
          const expected = end === undefined ? text : text.slice(0, Math.min(...starts(end)));
          expect((await piecesOf(each(bytes), decodeBytes, stops)).join("")).toBe(expected);
        },
      ),
    );
  });
});
