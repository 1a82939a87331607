import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { type ErrorCode, LowrankError, throwFaults } from "../errors.ts";
import { reportError, withInterrupt } from "./main-errors.ts";

class Lines {
  text = "";
  readonly isTTY: boolean;
  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }
  write(text: string): void {
    this.text += text;
  }
}

function report(error: unknown, env: Record<string, string> = {}): { text: string; exitCode: number } {
  const stderr = new Lines();
  const exitCode = reportError(error, stderr, env);
  return { text: stderr.text, exitCode };
}

function thrown(action: () => void): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

const bugRequest = "this is a bug in lowrank: please report it, with the command and what LOWRANK_DEBUG=1 adds to it";

describe("reportError", () => {
  it("writes a user's mistake as one line", () => {
    expect(report(new LowrankError("file", "a.onnx: cannot read: no such file; check the path"))).toEqual({
      text: "lowrank: a.onnx: cannot read: no such file; check the path\n",
      exitCode: 1,
    });
    expect(report(new LowrankError("data", "first\n  second")).text).toBe("lowrank: first second\n");
  });

  it("has an exit code for each kind", () => {
    const codes: ErrorCode[] = ["file", "model", "adapter", "data", "runtime", "config", "aborted"];
    expect(codes.map((code) => report(new LowrankError(code, "x")).exitCode)).toEqual([1, 1, 1, 1, 1, 2, 130]);
  });

  it("lists faults below their summary, the first twenty", () => {
    expect(report(thrown(() => throwFaults("model", "m.onnx", ["a cycle", "no outputs"]))).text).toBe(
      "lowrank: m.onnx: 2 faults\n  - a cycle\n  - no outputs\n",
    );
    expect(report(new LowrankError("config", "2 bad options", { faults: ["--lr: x", "--rank: y"] }))).toEqual({
      text: "lowrank: 2 bad options\n  - --lr: x\n  - --rank: y\n",
      exitCode: 2,
    });
    const many = Array.from({ length: 25 }, (_, i) => `fault ${i}`);
    const lines = report(thrown(() => throwFaults("model", "m.onnx", many))).text.split("\n");
    expect(lines).toHaveLength(1 + 20 + 1 + 1);
    expect(lines.slice(19)).toEqual(["  - fault 18", "  - fault 19", "  … and 5 more", ""]);
  });

  it("asks for a report of anything else, with a stack only when debugging", () => {
    expect(report(new TypeError("x is not a function"))).toEqual({
      text: `lowrank: internal: x is not a function; ${bugRequest}\n`,
      exitCode: 70,
    });
    expect(report(new Error("internal: impossible")).text).toBe(`lowrank: internal: impossible; ${bugRequest}\n`);
    expect(report("a string").text).toBe(`lowrank: internal: a string; ${bugRequest}\n`);
    const cause = new Error("the cause");
    const { text } = report(new LowrankError("file", "outer", { cause }), { LOWRANK_DEBUG: "1" });
    expect(text.split("\n").filter((line) => !line.startsWith("    at "))).toEqual([
      "lowrank: outer",
      "LowrankError: outer",
      "Error: the cause",
      "",
    ]);
    expect(text).toMatch(/\n {4}at .*main-errors\.test\.ts/);
  });

  it("takes Node's own AbortError for a stop on request", async () => {
    const error = await sleep(1_000, undefined, { signal: AbortSignal.abort() }).catch((e: unknown) => e);
    expect(report(error)).toEqual({ text: "lowrank: stopped on request\n", exitCode: 130 });
  });

  it("sends no control characters of a hostile name to the terminal", () => {
    expect(report(new LowrankError("file", "\u001b]0;owned\u0007.onnx: bad")).text).toBe(
      "lowrank: \\x1b]0;owned\\x07.onnx: bad\n",
    );
  });
});

describe("withInterrupt", () => {
  it("returns what the run returns, and takes its handlers back", async () => {
    const signals = new EventEmitter();
    const during = await withInterrupt(async () => signals.listenerCount("SIGINT"), { signals, stderr: new Lines() });
    expect(during).toBe(1);
    expect(signals.listenerCount("SIGINT") + signals.listenerCount("SIGTERM")).toBe(0);
  });

  for (const name of ["SIGINT", "SIGTERM"] as const) {
    it(`aborts once on ${name}, and exits at once on a second`, async () => {
      const signals = new EventEmitter();
      const stderr = new Lines();
      const exits: number[] = [];
      const run = withInterrupt(
        async (signal) => {
          signals.emit(name);
          const first = [signal.aborted, ...exits];
          signals.emit(name);
          expect([first, exits]).toEqual([[true], [130]]);
          signal.throwIfAborted();
        },
        { signals, stderr, exit: (code) => exits.push(code) },
      );
      const error = await run.catch((e: unknown) => e);
      expect(error).toBeInstanceOf(LowrankError);
      expect(report(error)).toEqual({ text: "lowrank: stopped on request\n", exitCode: 130 });
      expect(stderr.text).toBe("stopping: saving what is complete; press Ctrl-C again to quit at once\n");
      expect(signals.listenerCount(name)).toBe(0);
    });
  }

  it("starts a line of its own on a terminal, below ^C and the bar", async () => {
    const signals = new EventEmitter();
    const stderr = new Lines(true);
    await withInterrupt(async () => void signals.emit("SIGINT"), { signals, stderr, exit: () => {} });
    expect(stderr.text).toBe("\nstopping: saving what is complete; press Ctrl-C again to quit at once\n");
  });
});
