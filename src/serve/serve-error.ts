// What goes wrong with a request, as an HTTP status and one sentence. Mistakes that the rooms below report keep their words.
import { LowrankError } from "../errors.ts";

/** An answer that is none: what the client is told, and with which status. */
export class ServeError extends Error {
  override readonly name = "ServeError";
  readonly status: number;
  /** Seconds after which it is worth trying again. */
  readonly retryAfter: number | undefined;

  constructor(status: number, message: string, options: { retryAfter?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = status;
    this.retryAfter = options.retryAfter;
  }
}

/** A mistake as what the client is told; null for an error of our own, whose words are for the log alone. */
export function asServeError(error: unknown): ServeError | null {
  if (error instanceof ServeError) return error;
  if (!(error instanceof LowrankError)) return null;
  const status = error.code === "aborted" ? 503 : 400;
  return new ServeError(status, error.message, { cause: error });
}
