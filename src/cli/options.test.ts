import { describe, expect, it } from "vitest";
import { collect, parseNumber, parseTargets, parseThreads } from "./options.ts";

describe("parseNumber", () => {
  it("takes numbers only", () => {
    expect([parseNumber("1e-3"), parseNumber("-2")]).toEqual([0.001, -2]);
    for (const text of ["", " ", "two", "1x", "Infinity"]) expect(() => parseNumber(text)).toThrow("expected a number");
  });
});

describe("--target", () => {
  it("collects what is repeated", () => {
    expect(collect("b", collect("a"))).toEqual(["a", "b"]);
  });

  it("is a list, all-linear, or an expression between slashes", () => {
    expect(parseTargets(["q_proj,v_proj", "fc"])).toEqual(["q_proj", "v_proj", "fc"]);
    expect(parseTargets(["all-linear"])).toBe("all-linear");
    expect(parseTargets(["/h\\.[0-9]{1,2}\\.attn/"])).toBe("h\\.[0-9]{1,2}\\.attn");
    expect(parseTargets(["a,,b,"])).toEqual(["a", "b"]);
  });
});

describe("parseThreads", () => {
  it("takes whole numbers from 1 to 1024", () => {
    expect([parseThreads("1"), parseThreads("1024")]).toEqual([1, 1024]);
    for (const text of ["0", "-1", "1.5", "1025", "two", ""]) expect(() => parseThreads(text)).toThrow(/expected a/);
  });
});
