// FlatBuffers, as much of the format as adapter files need: tables of scalars and of vectors, read with every offset checked
// before it is followed, as a stranger may have written it. Format: https://flatbuffers.dev/internals; all numbers are
// little-endian, a table begins with the signed distance back to its vtable, other offsets are unsigned and point forward.

/** What is wrong with a buffer; the readers of files turn it into one of their faults. */
export class BufferFault extends Error {}

/** A vector in the buffer: how many elements, and where the first is. */
export interface BufferVector {
  readonly length: number;
  readonly start: number;
}

/** A table whose place and vtable have been checked. Fields are numbered from 0 in the order of the schema. */
export interface BufferTable {
  /** The field's int32, or the schema's default when the writer left it out. */
  int32(field: number, fallback: number): number;
  /** The vector that the field points to, all of whose elements lie in the buffer; undefined when it was left out. */
  vector(field: number, elementBytes: number): BufferVector | undefined;
}

/** Reads the buffer's root; `identifier` must stand behind its offset. Throws BufferFault. */
export function rootTable(view: DataView, identifier: string): BufferTable {
  need(view, 0, 8, "the header");
  const got = String.fromCharCode(...[4, 5, 6, 7].map((at) => view.getUint8(at)));
  if (got !== identifier)
    throw new BufferFault(
      `expected the file identifier ${identifier}, got ${JSON.stringify(got)}; this is another file`,
    );
  return tableAt(view, view.getUint32(0, true));
}

/** The table at a position. Throws BufferFault. */
export function tableAt(view: DataView, at: number): BufferTable {
  need(view, at, 4, "a table");
  const vtable = at - view.getInt32(at, true);
  need(view, vtable, 4, "a vtable");
  const [vtableBytes, tableBytes] = [view.getUint16(vtable, true), view.getUint16(vtable + 2, true)];
  if (vtableBytes < 4 || vtableBytes % 2 !== 0 || tableBytes < 4)
    throw new BufferFault(
      `expected a vtable at ${vtable}, got sizes ${vtableBytes} and ${tableBytes}; the file is damaged`,
    );
  need(view, vtable, vtableBytes, "a vtable");
  need(view, at, tableBytes, "a table");
  const place = (field: number): number | undefined => {
    const slot = 4 + 2 * field;
    const offset = slot < vtableBytes ? view.getUint16(vtable + slot, true) : 0;
    if (offset === 0) return undefined;
    // Every field here has four bytes.
    if (offset < 4 || offset + 4 > tableBytes)
      throw new BufferFault(`expected field ${field} in its table of ${tableBytes} bytes, got offset ${offset}`);
    return at + offset;
  };
  return {
    int32: (field, fallback) => {
      const found = place(field);
      return found === undefined ? fallback : view.getInt32(found, true);
    },
    vector: (field, elementBytes) => {
      const found = place(field);
      return found === undefined ? undefined : vectorAt(view, follow(view, found), elementBytes);
    },
  };
}

/** Where the offset at `at` leads. Throws BufferFault. */
export function follow(view: DataView, at: number): number {
  need(view, at, 4, "an offset");
  const offset = view.getUint32(at, true);
  if (offset === 0) throw new BufferFault(`expected an offset at ${at}, got 0`);
  need(view, at + offset, 4, "what an offset leads to");
  return at + offset;
}

function vectorAt(view: DataView, at: number, elementBytes: number): BufferVector {
  need(view, at, 4, "a vector");
  const length = view.getUint32(at, true);
  need(view, at + 4, length * elementBytes, `a vector of ${length} elements`);
  return { length, start: at + 4 };
}

function need(view: DataView, at: number, bytes: number, what: string): void {
  if (at >= 0 && at + bytes <= view.byteLength) return;
  throw new BufferFault(
    `expected ${what} within ${view.byteLength} bytes, got bytes ${at} to ${at + bytes}; the file is truncated or damaged`,
  );
}
