// Where outputs of a frozen prefix are kept: rows of equal length by the number of their example. In memory here; on the disk,
// which is Node's matter, in runs/row-file.ts.

/** Rows of a fixed number of bytes, by number. */
export interface RowStore {
  has(key: number): boolean;
  /** Keeps a row; one that is there already stays. */
  write(key: number, row: Uint8Array): void;
  /** Copies the rows of these keys, all of them there, one behind the other. */
  read(keys: ArrayLike<number>, into: Uint8Array): void;
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
  const places = new Map<number, number>();
  const rowAt = (place: number): Uint8Array => {
    const from = (place % perChunk) * rowBytes;
    return chunks[Math.floor(place / perChunk)]!.subarray(from, from + rowBytes);
  };
  return {
    has: (key) => places.has(key),
    write(key, row) {
      if (places.has(key)) return;
      const place = places.size;
      if (place === chunks.length * perChunk) chunks.push(new Uint8Array(perChunk * rowBytes));
      rowAt(place).set(row);
      places.set(key, place);
    },
    read(keys, into) {
      for (let at = 0; at < keys.length; at++) into.set(rowAt(places.get(keys[at]!)!), at * rowBytes);
    },
    close() {
      chunks.length = 0;
      places.clear();
    },
  };
}
