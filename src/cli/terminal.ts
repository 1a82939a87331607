// Where the command's words go: results to stdout, warnings and progress to stderr, so that `lowrank … > file` and
// `--json | jq` hold results only. Knows what a terminal can show (colour, box drawing), and ends quietly when the
// reader of a pipe has gone (`lowrank … | head`).
import { styleText } from "node:util";

/** What is written to: process.stdout, process.stderr, or a test's own. */
export interface OutputStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  on?(event: "error", listener: (error: Error) => void): unknown;
}

export type Format = Parameters<typeof styleText>[0];

/** Formats text, or returns it as it is where colour is unwanted. */
export type Style = (format: Format, text: string) => string;

export type Env = Readonly<Record<string, string | undefined>>;

export interface Terminal {
  /** A line to stdout for people: nothing with `quiet` or `json`. */
  say(text?: string): void;
  /** A title, set off by an empty line before it. */
  heading(text: string): void;
  /** A line to stdout for programs, whatever the options: what `--json` asks for. */
  emit(text: string): void;
  /** A line to stderr, always. */
  warn(text: string): void;
  /** For text that goes to stdout. */
  readonly style: Style;
}

export interface TerminalOptions {
  stdout?: OutputStream;
  stderr?: OutputStream;
  env?: Env;
  /** Say nothing but warnings. */
  quiet?: boolean;
  /** stdout belongs to one JSON document. */
  json?: boolean;
  /** Ends the process when the pipe that it writes to is closed; for tests. */
  exit?: (code: number) => void;
}

/** What a process that a closed pipe ends reports by custom: 128 + SIGPIPE. Not 0: the work was not done to its end. */
const closedPipeExit = 141;

/**
 * The command's output.
 *
 * @example
 * const terminal = createTerminal({ quiet: options.quiet, json: options.json });
 * terminal.heading("The base model");
 * terminal.say(`accuracy ${formatPercent(accuracy)}`);
 */
export function createTerminal(options: TerminalOptions = {}): Terminal {
  const { env = process.env, quiet = false, json = false } = options;
  const stdout: OutputStream = options.stdout ?? process.stdout;
  const stderr: OutputStream = options.stderr ?? process.stderr;
  const exit = options.exit ?? ((code: number) => process.exit(code));
  const style = createStyle(stdout, env);
  const warningStyle = createStyle(stderr, env);
  endOnClosedPipe([stdout, stderr], exit);
  const say = (text = ""): void => {
    if (!quiet && !json) stdout.write(`${text}\n`);
  };
  return {
    say,
    heading: (text) => say(`\n${style("bold", text)}`),
    emit: (text) => void stdout.write(`${text}\n`),
    warn: (text) => void stderr.write(`${warningStyle("yellow", "warning:")} ${text}\n`),
    style,
  };
}

/** Ends the process quietly when the reader of a pipe has gone (`lowrank tune --help | head`). */
export function endOnClosedPipe(
  streams: readonly OutputStream[],
  exit: (code: number) => void = (code) => process.exit(code),
): void {
  for (const stream of streams) {
    stream.on?.("error", (error) => {
      if ("code" in error && error.code === "EPIPE") return exit(closedPipeExit);
      throw error;
    });
  }
}

/** A style for what is written to `stream`: plain unless it is a terminal with colour. */
export function createStyle(stream: OutputStream, env: Env): Style {
  if (!supportsColor(stream, env)) return (_format, text) => text;
  // Node would check process.stdout here, and this may be for stderr.
  return (format, text) => styleText(format, text, { validateStream: false });
}

/** Whether `stream` shows colour: a terminal, not a dumb one, and NO_COLOR (https://no-color.org) not set. */
export function supportsColor(stream: OutputStream, env: Env): boolean {
  return stream.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
}

/** Whether box-drawing characters can be trusted to show: not on dumb terminals, Linux consoles, old Windows ones. */
export function supportsUnicode(env: Env, platform: string = process.platform): boolean {
  if (env.TERM === "dumb" || env.TERM === "linux") return false;
  return platform !== "win32" || Boolean(env.WT_SESSION || env.TERM_PROGRAM || env.TERM?.startsWith("xterm"));
}
