// Failures of the machine or the store that a training runs on, not of the training: any other one would fail so, here and now.
// They say nothing of a trial, so they are never its result.
import { LowrankError } from "../errors.ts";
import { errorCode } from "../runs/file-error.ts";

const codes = ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ESTORE"];

/** A LowrankError "file" of a store that cannot be reached, or is not the one that was meant. */
export function storeFailure(message: string, cause?: unknown): LowrankError {
  const reason = cause instanceof Error ? cause.message : message;
  return new LowrankError("file", message, { cause: withCode("ESTORE", reason, cause) });
}

/** What the system said of a failure, as its code; null where it said nothing. */
export function systemCode(error: unknown): string | null {
  if (!(error instanceof LowrankError)) return null;
  return errorCode(error.cause) ?? systemCode(error.cause);
}

/** An error as the system throws them, which another process told of. */
export function withCode(code: string, message: string, cause?: unknown): Error {
  return Object.assign(new Error(message, { cause }), { code });
}

export function isPlaceFailure(error: unknown): boolean {
  return codes.includes(systemCode(error) ?? "");
}
