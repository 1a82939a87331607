import { describe, expect, it } from "vitest";
import { createStyle, createTerminal, type OutputStream, supportsColor, supportsUnicode } from "./terminal.ts";

class FakeStream implements OutputStream {
  text = "";
  isTTY: boolean;
  onError: ((error: Error) => void) | undefined;
  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }
  write(text: string): void {
    this.text += text;
  }
  on(_event: "error", listener: (error: Error) => void): void {
    this.onError = listener;
  }
}

function run(options: { quiet?: boolean; json?: boolean; isTTY?: boolean }): [stdout: string, stderr: string] {
  const [stdout, stderr] = [new FakeStream(options.isTTY), new FakeStream(options.isTTY)];
  const terminal = createTerminal({ ...options, stdout, stderr, env: {} });
  terminal.heading("The base model");
  terminal.say("accuracy 95.3 %");
  terminal.say();
  terminal.warn("all units are dead");
  terminal.emit("{}");
  return [stdout.text, stderr.text];
}

describe("createTerminal", () => {
  it("says results on stdout and warnings on stderr, plain in a pipe", () => {
    expect(run({})).toEqual(["\nThe base model\naccuracy 95.3 %\n\n{}\n", "warning: all units are dead\n"]);
  });

  it("says nothing but data and warnings with quiet or json", () => {
    for (const options of [{ quiet: true }, { json: true }]) {
      expect(run(options)).toEqual(["{}\n", "warning: all units are dead\n"]);
    }
  });

  it("colours on a terminal", () => {
    expect(run({ isTTY: true })).toEqual([
      "\n\u001b[1mThe base model\u001b[22m\naccuracy 95.3 %\n\n{}\n",
      "\u001b[33mwarning:\u001b[39m all units are dead\n",
    ]);
  });

  it("ends quietly when the reader has gone, and hides no other fault", () => {
    const exits: number[] = [];
    const [stdout, stderr] = [new FakeStream(), new FakeStream()];
    createTerminal({ stdout, stderr, env: {}, exit: (code) => exits.push(code) });
    stdout.onError!(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
    stderr.onError!(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
    expect(exits).toEqual([141, 141]);
    expect(stdout.text + stderr.text).toBe("");
    expect(() => stdout.onError!(Object.assign(new Error("write EIO"), { code: "EIO" }))).toThrow("write EIO");
  });
});

describe("what a terminal can show", () => {
  it("is colour unless it is no terminal, is dumb, or NO_COLOR says so", () => {
    const terminal = new FakeStream(true);
    expect(supportsColor(terminal, {})).toBe(true);
    expect(supportsColor(terminal, { NO_COLOR: "" })).toBe(true); // no-color.org: only when not empty
    expect(supportsColor(terminal, { NO_COLOR: "1" })).toBe(false);
    expect(supportsColor(terminal, { TERM: "dumb" })).toBe(false);
    expect(supportsColor(new FakeStream(false), {})).toBe(false);
    expect(createStyle(terminal, { NO_COLOR: "1" })("red", "x")).toBe("x");
    expect(createStyle(terminal, {})(["bold", "red"], "x")).toBe("\u001b[1m\u001b[31mx\u001b[39m\u001b[22m");
  });

  it("is box drawing except on dumb terminals, Linux consoles and old Windows ones", () => {
    expect(supportsUnicode({}, "linux")).toBe(true);
    expect(supportsUnicode({ TERM: "dumb" }, "linux")).toBe(false);
    expect(supportsUnicode({ TERM: "linux" }, "linux")).toBe(false);
    expect(supportsUnicode({}, "win32")).toBe(false);
    expect(supportsUnicode({ WT_SESSION: "1" }, "win32")).toBe(true);
    expect(supportsUnicode({ TERM: "xterm-256color" }, "win32")).toBe(true);
  });
});
