// How the command ends when it does not end well: one clear line on stderr and an exit code, or, on Ctrl-C, time to
// save what is complete. Stacks are for us: LOWRANK_DEBUG=1 shows them.
import { LowrankError } from "../errors.ts";
import type { Env, OutputStream } from "./terminal.ts";

/** Exit codes, by custom: sysexits.h's EX_SOFTWARE for a bug of ours, 128 + SIGINT for a stop on request. */
export const exitCodes: { readonly failure: 1; readonly usage: 2; readonly internal: 70; readonly aborted: 130 } = {
  failure: 1,
  usage: 2,
  internal: 70,
  aborted: 130,
};

/** Faults that are listed; more would push the first ones, which explain the rest, off the screen. */
const maxListedFaults = 20;

/**
 * Writes what went wrong to `stderr` and returns the exit code for it. Several faults are listed below the summary.
 *
 * @example
 * main(process.argv).catch((error) => { process.exitCode = reportError(error, process.stderr) });
 */
export function reportError(error: unknown, stderr: OutputStream, env: Env = process.env): number {
  const { lines, exitCode } = describe(error);
  if (env.LOWRANK_DEBUG) lines.push(...stacks(error));
  stderr.write(`${lines.map(printable).join("\n")}\n`);
  return exitCode;
}

export interface InterruptOptions {
  /** Where signals come from; default: the process. */
  signals?: {
    on(name: "SIGINT" | "SIGTERM", listener: () => void): unknown;
    off(name: "SIGINT" | "SIGTERM", listener: () => void): unknown;
  };
  stderr?: OutputStream;
  exit?: (code: number) => void;
}

/**
 * Runs `run` with a signal that the first Ctrl-C (or SIGTERM) aborts, so that it can save what is complete and throw
 * its LowrankError "aborted"; a second one ends the process at once with exit code 130. The handlers are gone when
 * `run` has ended. Signals are seen between turns of the event loop: a run that never lets it turn cannot be stopped.
 *
 * @example
 * await withInterrupt((signal) => runStudy({ ...options, signal }));
 */
export async function withInterrupt<T>(
  run: (signal: AbortSignal) => Promise<T>,
  options: InterruptOptions = {},
): Promise<T> {
  const { signals = process, stderr = process.stderr, exit = (code) => process.exit(code) } = options;
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) {
      exit(exitCodes.aborted);
      return;
    }
    const start = stderr.isTTY === true ? "\n" : ""; // away from the terminal's ^C and from a progress bar
    stderr.write(`${start}stopping: saving what is complete; press Ctrl-C again to quit at once\n`);
    controller.abort(new LowrankError("aborted", "stopped on request"));
  };
  signals.on("SIGINT", onSignal);
  signals.on("SIGTERM", onSignal);
  try {
    return await run(controller.signal);
  } finally {
    signals.off("SIGINT", onSignal);
    signals.off("SIGTERM", onSignal);
  }
}

function describe(error: unknown): { lines: string[]; exitCode: number } {
  if (error instanceof LowrankError) {
    return { lines: describeMistake(error), exitCode: exitCodeOf(error) };
  }
  // What Node's own functions throw when their AbortSignal is aborted.
  if (error instanceof Error && error.name === "AbortError") {
    return { lines: ["lowrank: stopped on request"], exitCode: exitCodes.aborted };
  }
  const message = oneLine(error instanceof Error ? error.message : String(error)).replace(/^internal:\s*/, "");
  const request = "this is a bug in lowrank: please report it, with the command and what LOWRANK_DEBUG=1 adds to it";
  return { lines: [`lowrank: internal: ${message}; ${request}`], exitCode: exitCodes.internal };
}

function describeMistake({ message, faults }: LowrankError): string[] {
  if (faults.length <= 1) return [`lowrank: ${oneLine(message)}`];
  const [summary = ""] = message.split("\n"); // throwFaults lists the faults below it, all of them
  const listed = faults.slice(0, maxListedFaults).map((fault) => `  - ${oneLine(fault)}`);
  const more = faults.length - listed.length;
  return [`lowrank: ${summary}`, ...listed, ...(more > 0 ? [`  … and ${more} more`] : [])];
}

function exitCodeOf({ code }: LowrankError): number {
  if (code === "config") return exitCodes.usage;
  return code === "aborted" ? exitCodes.aborted : exitCodes.failure;
}

function stacks(error: unknown): string[] {
  const lines: string[] = [];
  for (let at: unknown = error; at instanceof Error && lines.length < 500; at = at.cause) {
    lines.push(...(at.stack ?? at.message).split("\n"));
  }
  return lines;
}

function oneLine(text: string): string {
  return text.trim().replace(/\s*[\r\n]+\s*/g, " ");
}

/** Control characters, which a hostile file's names could carry to the terminal, as escapes. */
function printable(line: string): string {
  return line.replace(/\p{Control}/gu, (character) => {
    return `\\x${character.codePointAt(0)!.toString(16).padStart(2, "0")}`;
  });
}
