import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compactNumbers, openNumberText } from "./number-text.ts";

const comma = 44;

function read(text: string, start = 0, end = Buffer.byteLength(text)) {
  const cells = openNumberText(Buffer.from(text))!.cells(start, end, comma)!;
  return { ...cells, unread: [...cells.unread], values: [...cells.numbers()] };
}

const digits = (most: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(..."0123456789"), minLength: 1, maxLength: most });
const plain = fc
  .tuple(fc.constantFrom("", " "), fc.constantFrom("", "-"), digits(9), fc.option(digits(6)), fc.constantFrom("", " "))
  .map(([before, sign, whole, part, after]) => `${before}${sign}${whole}${part === null ? "" : `.${part}`}${after}`);
const anyNumber = fc.oneof(
  fc.double().map(String),
  fc.float().map(String),
  digits(25),
  fc.tuple(digits(20), digits(20)).map((p) => p.join(".")),
);
const noNumber = fc.constantFrom(
  "",
  " ",
  "-",
  ".",
  "5.",
  ".5",
  "+5",
  "1e5",
  "1e-05",
  "0x10",
  "NaN",
  "Infinity",
  "a note",
  "--1",
  "1-",
  "1.2.3",
  "é",
  "1:2",
);

describe("numbers from text", () => {
  it("are those that Number gives, or are left unread", () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(plain, anyNumber, noNumber), { minLength: 1, maxLength: 60 }), (cells) => {
        const text = cells.join(",");
        const { count, unread, values, endOf } = read(text);
        expect(count).toBe(cells.length);
        for (const [index, cell] of cells.entries()) {
          expect(values[index]).toBe(unread.includes(index) ? Number.NaN : Number(cell));
        }
        expect(
          Buffer.from(text)
            .subarray(endOf(0) + 1)
            .toString(),
        ).toBe(cells.slice(1).join(","));
      }),
      { numRuns: 500 },
    );
  });

  it("of up to 15 digits are all read", () => {
    fc.assert(
      fc.property(fc.array(plain, { minLength: 1, maxLength: 100 }), (cells) => {
        expect(read(cells.join(",")).unread).toEqual([]);
      }),
    );
  });

  it("do not depend on what stands around them, or stood there before", () => {
    read("-1,-22,-333,-4444,-55555,".repeat(40));
    const text = `99,${"7,-12,345,".repeat(20)}1234567,8-99`;
    const end = text.length - 3;
    expect(read(text, 3, end).values).toEqual(text.slice(3, end).split(",").map(Number));
    expect(read("123", 1, 1)).toMatchObject({ count: 1, unread: [0] });
  });

  it("stay float32 where that is exact", () => {
    const kinds = (text: string) => openNumberText(Buffer.from(text))!.cells(0, text.length, comma)!.numbers();
    expect(kinds("1,0.5,255")).toEqual(Float32Array.of(1, 0.5, 255));
    expect(kinds("1,0.1,255")).toEqual(Float64Array.of(1, 0.1, 255));
    expect(compactNumbers([16777217])).toEqual(Float64Array.of(16777217));
    const cells = openNumberText(Buffer.from("1,x"))!.cells(0, 3, comma)!;
    cells.set(1, 1e-5);
    expect(cells.numbers()).toEqual(Float64Array.of(1, 1e-5));
  });

  it("refuses text that is too long for it", () => {
    expect(openNumberText(new Uint8Array(4 * 2 ** 20 + 1))).toBeNull();
    const most = Buffer.alloc(4 * 2 ** 20, "1,");
    expect(openNumberText(most)!.cells(0, most.length, comma)!.count).toBe(2 ** 21 + 1);
    expect(openNumberText(Buffer.alloc(4 * 2 ** 20, ","))!.cells(0, most.length, comma)).toBeNull();
  });
});
