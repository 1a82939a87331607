// A file for whoever presses a button: the browser's own download.
import { notice } from "../state/store.ts";
import { size } from "./format.ts";

/** Hands over a file, and says so. */
export function save(file: string, bytes: Uint8Array): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  link.download = file;
  link.click();
  // The browser reads it after this turn.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  notice.value = { kind: "info", text: `${file}, ${size(bytes.length)}, is saved.` };
}
