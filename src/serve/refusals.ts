// Contents that could not be loaded: remembered until their files change, so that asking for a damaged adapter again and again
// costs a look at its files and no more.
import { LowrankError } from "../errors.ts";
import type { Identity } from "./catalogue.ts";
import { asServeError, ServeError } from "./serve-error.ts";

/** How many are remembered. */
const maxRemembered = 10_000;

export class Refusals {
  readonly #known = new Map<string, { readonly identity: string; readonly error: ServeError }>();

  /** Why the last content of that id was refused. */
  reasonOf(id: string): ServeError | undefined {
    return this.#known.get(id)?.error;
  }

  /** Whether it was this content. */
  isKnown(id: string, identity: string): boolean {
    return this.#known.get(id)?.identity === identity;
  }

  forget(id: string): void {
    this.#known.delete(id);
  }

  /** What clients are told of an error of loading; remembered when the files are at fault, and not this server's state. */
  add(id: string, label: string, identity: Identity | null, error: unknown): { told: unknown; isOfFiles: boolean } {
    const known = asServeError(error);
    if (known === null) return { told: error, isOfFiles: false };
    // Too many sessions: another time there may be fewer.
    if (error instanceof LowrankError && error.code === "config") {
      return { told: new ServeError(503, error.message, { retryAfter: 60, cause: error }), isOfFiles: false };
    }
    const isOfFiles = known.status === 400 || known.status === 404;
    if (!isOfFiles) return { told: known, isOfFiles };
    const text = withoutPath(error, known.message);
    const told = text.startsWith(label) ? known : new ServeError(known.status, `${label}: ${text}`, { cause: error });
    if (identity !== null) {
      if (this.#known.size >= maxRemembered) this.#known.clear();
      this.#known.set(id, { identity: identity.text, error: told });
    }
    return { told, isOfFiles };
  }
}

/** A file's error without where it lies: clients need not know. */
function withoutPath(error: unknown, message: string): string {
  return error instanceof LowrankError && error.code === "file" ? message.replace(/^.*?: (?=cannot)/, "") : message;
}
