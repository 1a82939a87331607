import { describe, expect, it } from "vitest";
import { LowrankError, throwFaults } from "./errors.ts";

function thrown(faults: readonly string[]): LowrankError {
  try {
    throwFaults("model", "file.onnx", faults);
  } catch (error) {
    return error as LowrankError;
  }
  throw new Error("nothing was thrown");
}

describe("throwFaults", () => {
  it("returns when there are none", () => {
    expect(() => throwFaults("model", "file.onnx", [])).not.toThrow();
  });

  it("puts one into the line", () => {
    const error = thrown(["is empty"]);
    expect(error).toBeInstanceOf(LowrankError);
    expect([error.code, error.message, error.faults]).toEqual([
      "model",
      "file.onnx: is empty",
      ["file.onnx: is empty"],
    ]);
  });

  it("lists several, and keeps them apart in `faults`", () => {
    const error = thrown(["a", "b"]);
    expect(error.message).toBe("file.onnx: 2 faults\n  - a\n  - b");
    expect(error.faults).toEqual(["a", "b"]);
  });

  it("lists only the first of very many", () => {
    const error = thrown(Array.from({ length: 100_000 }, (_, index) => `fault ${index}`));
    expect(error.message.split("\n")).toHaveLength(22);
    expect(error.message).toMatch(/fault 19\n {2}… and 99980 more$/);
    expect(error.faults).toHaveLength(100_000);
  });
});
