// The errors that a user of lowrank can cause, as one typed family. A bug of our own is a plain Error whose message
// starts with `internal:`.

/** Which kind of mistake it was; stable, for programs that react to it. */
export type ErrorCode =
  | "file" // a file is missing, unreadable, damaged or hostile
  | "model" // an ONNX model is invalid, or outside what is supported
  | "adapter" // an adapter is invalid, or does not fit its base
  | "config" // an option or a configuration value is wrong
  | "data" // a data set or batch is wrong
  | "runtime" // ONNX Runtime is missing, or refused the model
  | "aborted"; // stopped on request

/**
 * A mistake that a user can mend. The message reads `where: expected X, got Y; what to do`.
 *
 * When several faults were found, `faults` lists each on its own and the message is their summary.
 *
 * @example
 * try { readModel(bytes) } catch (e) { if (e instanceof LowrankError) console.error(e.code, e.faults) }
 */
export class LowrankError extends Error {
  override readonly name = "LowrankError";
  readonly code: ErrorCode;
  readonly faults: readonly string[];

  constructor(code: ErrorCode, message: string, options: { faults?: readonly string[]; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.faults = options.faults ?? [message];
  }
}

/** Faults that a message lists; `faults` has them all. A hostile file may have millions. */
const maxListed = 20;

/** Throws one error for all of `faults`, or returns when there are none. `where` names the file or object. */
export function throwFaults(code: ErrorCode, where: string, faults: readonly string[]): void {
  if (faults.length === 0) return;
  if (faults.length === 1) throw new LowrankError(code, `${where}: ${faults[0]}`);
  const listed = faults.slice(0, maxListed).map((fault) => `\n  - ${fault}`);
  const more = faults.length > maxListed ? `\n  … and ${faults.length - maxListed} more` : "";
  throw new LowrankError(code, `${where}: ${faults.length} faults${listed.join("")}${more}`, { faults });
}
