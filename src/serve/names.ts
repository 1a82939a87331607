// Adapters are asked for by name, and a name is never a path: it is looked up among the names that the adapters' folder was
// found to hold, and nothing that a client sends is ever joined to a path.
import { ServeError } from "./serve-error.ts";

/** Letters, digits, "_", "-" and, between them, "."; up to 128 characters. */
const pattern = /^[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-])?$/;

/** Whether an adapter may be called that. */
export function isName(text: string): boolean {
  return pattern.test(text) && !text.includes("..");
}

/** Throws ServeError 400 for what is no name. `what` says what it should have named. */
export function assertName(text: unknown, what: string): asserts text is string {
  if (typeof text === "string" && isName(text)) return;
  const got = typeof text === "string" ? JSON.stringify(shortened(text)) : typeof text;
  throw new ServeError(
    400,
    `${what}: expected a name of up to 128 letters, digits, "_", "-" and ".", got ${got}; paths and URLs are not names`,
  );
}

/** What is shown of a client's text. */
export function shortened(text: string): string {
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}
