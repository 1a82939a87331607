import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseBlend } from "./blend.ts";
import { isName } from "./names.ts";
import { ServeError } from "./serve-error.ts";

describe("parseBlend", () => {
  it.each([
    ["", []],
    ["poet", [{ name: "poet", weight: 1 }]],
    ["poet:0.5", [{ name: "poet", weight: 0.5 }]],
    [
      "a:0.7,b:0.3",
      [
        { name: "a", weight: 0.7 },
        { name: "b", weight: 0.3 },
      ],
    ],
    [
      "a:-1e-2,b",
      [
        { name: "a", weight: -0.01 },
        { name: "b", weight: 1 },
      ],
    ],
    ["a:1,a:2", [{ name: "a", weight: 3 }]],
  ])("reads %j", (text, expected) => expect(parseBlend(text)).toEqual(expected));

  it.each([
    "a:",
    "a:b",
    "a:1:2",
    ":1",
    ",",
    "a,,b",
    "a:NaN",
    "a:Infinity",
    "a:1e39",
    "a b",
    "../a",
    "a:0x1",
    "a,b,c,d,e,f,g,h,i",
  ])("refuses %j", (text) => expect(() => parseBlend(text)).toThrow(ServeError));

  it("reads or refuses whatever comes, and every name that it gives is one", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 60 }), (text) => {
        try {
          for (const { name, weight } of parseBlend(text)) {
            expect(isName(name)).toBe(true);
            expect(Number.isFinite(weight)).toBe(true);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ServeError);
        }
      }),
    );
  });
});

describe("isName", () => {
  it.each(["a", "poet-2", "v1.2_final", "A".repeat(128), "-"])("takes %j", (name) => expect(isName(name)).toBe(true));
  it.each(["", ".", "..", "a..b", ".a", "a.", "a/b", "a\\b", "a:b", "a\0", "é", "a b", "a\n", "A".repeat(129)])(
    "refuses %j",
    (name) => expect(isName(name)).toBe(false),
  );
});
