// One row's bytes, copied: what each step does with labels, images and kept activations.

/** Rows of so many bytes or fewer are copied byte by byte: a view and a call for each would cost more. */
const shortRow = 64;

/** Copies `length` bytes. */
export function copyRow(from: Uint8Array, start: number, length: number, into: Uint8Array, target: number): void {
  if (length > shortRow) into.set(from.subarray(start, start + length), target);
  else for (let byte = 0; byte < length; byte++) into[target + byte] = from[start + byte]!;
}
