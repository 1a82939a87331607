// Where outputs of a frozen prefix are kept: rows of equal length, in the order in which they came. In memory here; on the
// disk, which is Node's matter, in runs/row-file.ts.

/** Rows of a fixed number of bytes, by their places: 0, 1, … */
export interface RowStore {
  /** Keeps a row at a place, the next one behind those that are kept. */
  write(place: number, row: Uint8Array): void;
  /** Copies the rows at these places, one behind the other. */
  read(places: Int32Array, into: Uint8Array): void;
  close(): void;
}

/** A kind of store, and how much it may hold. */
export interface StorePlace {
  /** As it is told: "memory". */
  readonly name: string;
  readonly maxBytes: number;
  open(rowBytes: number): RowStore;
}

/** Rows are kept in pieces of about this size, so that no large array is needed at once. */
const chunkBytes = 16 * 2 ** 20;

/**
 * Rows in memory.
 *
 * @example const place = inMemory(2 ** 30); // train(adapted, data, { prefixCache: { places: [place] } })
 */
export function inMemory(maxBytes: number): StorePlace {
  return { name: "memory", maxBytes, open: (rowBytes) => memoryRows(rowBytes) };
}

function memoryRows(rowBytes: number): RowStore {
  const perChunk = Math.max(1, Math.floor(chunkBytes / rowBytes));
  const chunks: Uint8Array[] = [];
  return {
    write(place, row) {
      if (place === chunks.length * perChunk) chunks.push(new Uint8Array(perChunk * rowBytes));
      chunks[Math.floor(place / perChunk)]!.set(row, (place % perChunk) * rowBytes);
    },
    read(places, into) {
      for (let at = 0; at < places.length; at++) {
        const place = places[at]!;
        const from = (place % perChunk) * rowBytes;
        into.set(chunks[Math.floor(place / perChunk)]!.subarray(from, from + rowBytes), at * rowBytes);
      }
    },
    close() {
      chunks.length = 0;
    },
  };
}
