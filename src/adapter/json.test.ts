import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  compareCodePoints,
  isWellFormed,
  parseJson,
  pythonJson,
  pythonNumber,
  quote,
  RawNumber,
  toPlain,
} from "./json.ts";

function read(text: string): unknown {
  return toPlain(parseJson(text, []));
}

describe("parseJson", () => {
  it("agrees with JSON.parse on any value, in any layout", () => {
    const values = fc.jsonValue({ maxDepth: 5 }).filter((value) => isWellFormed(JSON.stringify(value)));
    fc.assert(
      fc.property(values, fc.constantFrom("", " ", "\t", "\n  "), (value, space) => {
        const text = JSON.stringify(value, null, space);
        const numbers = (item: unknown): unknown => JSON.parse(JSON.stringify(item)); // a RawNumber is its number there
        expect(numbers(read(` ${text}\r\n`))).toEqual(JSON.parse(text));
      }),
    );
  });

  it("refuses what JSON.parse refuses, and nothing else but half surrogates", () => {
    const bits = fc.constantFrom(
      ...'{}[]:,"\\ -+.019eEtrufalsn\n\u0001',
      "null",
      '"a":',
      "\\u0041",
      "1e5",
      "[1]",
      '"k"',
    );
    fc.assert(
      fc.property(fc.array(bits, { maxLength: 12 }), (parts) => {
        const text = parts.join("");
        let valid = true;
        try {
          JSON.parse(text);
        } catch {
          valid = false;
        }
        if (valid) parseJson(text, []);
        else expect(() => parseJson(text, [])).toThrow(SyntaxError);
      }),
      { numRuns: 3000 },
    );
    for (const text of ['"\\ud800"', '"\\udc00\\ud800"', '{"\\ud83d": 1}']) {
      expect(() => parseJson(text, [])).toThrow("an escape that stands for nothing");
    }
    expect(read('"\\ud83d\\ude00"')).toBe("😀");
  });

  it("says what it expected and where", () => {
    expect(() => parseJson('{"a" 1}', [])).toThrow("expected ':' at character 5, got \"1\"");
    expect(() => parseJson("[1, 2", [])).toThrow("expected ',' or ']' at character 5, got the end");
    expect(() => parseJson("{,}", [])).toThrow('expected a key at character 1, got ","');
    expect(() => parseJson("NaN", [])).toThrow("expected a value at character 0");
    expect(() => parseJson("1 2", [])).toThrow("expected the end at character 2");
  });

  it("reports duplicate keys on every level, however they are escaped", () => {
    const faults: string[] = [];
    const value = parseJson('{"a":1,"b":{"c":1,"c":2},"\\u0061":3,"__proto__":{},"__proto__":1}', faults);
    expect(faults).toEqual(["c", "a", "__proto__"].map((key) => `duplicate key "${key}": each may be there once`));
    expect(value).toBeInstanceOf(Map);
  });

  it("keeps numbers that JavaScript would print otherwise, and makes no prototype of a key", () => {
    const value = read('{"a":0.0,"b":1e-05,"c":9007199254740993,"d":1.5,"e":-0,"__proto__":{"x":1}}');
    expect(Object.entries(value as object)).toEqual([
      ["a", new RawNumber("0.0")],
      ["b", 1e-5],
      ["c", new RawNumber("9007199254740993")],
      ["d", 1.5],
      ["e", new RawNumber("-0")],
      ["__proto__", { x: 1 }],
    ]);
    expect(Number(new RawNumber("2.50"))).toBe(2.5);
  });

  it("refuses deep nesting", () => {
    expect(read(`${"[".repeat(32)}${"]".repeat(32)}`)).toBeInstanceOf(Array);
    expect(() => parseJson("[".repeat(1e6), [])).toThrow("nested deeper than 32 levels at character 32");
  });
});

describe("pythonJson", () => {
  // Right sides printed by Python 3: json.dumps(x), and json.dumps(value, indent=2, sort_keys=True).
  it.each([
    [0, "0"],
    [-0, "-0.0"],
    [1e-5, "1e-05"],
    [0.0001, "0.0001"],
    [-1.5e-7, "-1.5e-07"],
    [0.1, "0.1"],
    [1e15 + 0.5, "1000000000000000.5"],
    [2 ** 53, "9007199254740992.0"],
    [1e16, "1e+16"],
    [1.25e22, "1.25e+22"],
    [1e100, "1e+100"],
    [5e-324, "5e-324"],
    [1.7976931348623157e308, "1.7976931348623157e+308"],
  ])("%d is %s", (value, text) => {
    expect(pythonNumber(value)).toBe(text);
  });

  it("prints as json.dumps does", () => {
    const value = {
      b: [],
      a: {},
      "\uffff": 1,
      "😀": [1, 'é\u007f\n"\\/'],
      c: [{ z: null, y: true }, new RawNumber("0.0")],
    };
    expect(pythonJson(value)).toBe(`{
  "a": {},
  "b": [],
  "c": [
    {
      "y": true,
      "z": null
    },
    0.0
  ],
  "\\uffff": 1,
  "\\ud83d\\ude00": [
    1,
    "\\u00e9\\u007f\\n\\"\\\\/"
  ]
}`);
    expect(() => pythonJson({ a: Number.NaN })).toThrow("internal: NaN is no JSON number");
    expect(() => pythonJson(undefined)).toThrow("internal: undefined is no JSON value");
  });
});

describe("helpers", () => {
  it("compares as UTF-8 bytes compare", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (a, b) => {
        expect(Math.sign(compareCodePoints(a, b))).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)));
      }),
    );
    expect(compareCodePoints("\uffff", "😀")).toBeLessThan(0);
  });

  it("quotes names, and cuts long ones", () => {
    expect(quote('a"\n')).toBe('"a\\"\\n"');
    expect(quote("x".repeat(200))).toBe(`"${"x".repeat(120)}"… (200 characters)`);
  });
});
