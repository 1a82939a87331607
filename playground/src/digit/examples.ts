// What may be collected: so many examples, and two to ten symbols with names of their own.

export const mostExamples = 200;

export const mostSymbols = 10;

export const longestName = 16;

export function isSymbolNames(value: unknown): value is readonly string[] {
  return (
    Array.isArray(value) &&
    value.length >= 2 &&
    value.length <= mostSymbols &&
    value.every((name) => typeof name === "string" && name.trim() !== "" && name.length <= longestName) &&
    new Set(value).size === value.length
  );
}
