// Which rows of a batch share a slot of the bank: rows of one adapter stand together, up to `places` in a slot, so that an
// adapter is read once for all of them. A batch is one block [slots, places]; what is left over in a slot is computed in vain,
// and an adapter of many rows takes several slots rather than make every slot as long.

export interface RowPlan {
  /** The adapter in each slot. [K] */
  readonly slots: readonly number[];
  /** Rows that a slot has room for: m. */
  readonly places: number;
  /** The rows of each slot; what is left over repeats the slot's first. [K m] */
  readonly rowOf: BigInt64Array;
  /** The rows that have an adapter, and for each its place among the K m. [a] */
  readonly where: BigInt64Array;
  readonly back: BigInt64Array;
}

/**
 * What a slot costs beside its rows, in rows: its adapter is read from memory, and often copied there first. Measured on
 * the study's network at r 8 (bench/adapters.js); the choice is flat around it.
 */
const slotCost = 4;

/**
 * The block for a batch.
 *
 * @param wanted the adapter of each row, null for rows that have none. At least one row has one.
 * @param held what slots hold from the run before: an adapter that is there already keeps its slot.
 */
export function planRows(wanted: readonly (number | null)[], held: readonly number[] = []): RowPlan {
  const rowsOf = new Map<number, number[]>();
  wanted.forEach((adapter, row) => {
    if (adapter === null) return;
    const rows = rowsOf.get(adapter);
    if (rows === undefined) rowsOf.set(adapter, [row]);
    else rows.push(row);
  });
  const places = cheapestPlaces([...rowsOf.values()].map((rows) => rows.length));
  const open = [...rowsOf].flatMap(([adapter, rows]) =>
    Array.from({ length: Math.ceil(rows.length / places) }, (_, index) => ({
      adapter,
      rows: rows.slice(index * places, (index + 1) * places),
    })),
  );
  const slots = inTheirPlaces(open, held);
  const rowOf = new BigInt64Array(slots.length * places);
  const adapted: (readonly [row: number, place: number])[] = [];
  slots.forEach(({ rows }, slot) => {
    rowOf.fill(BigInt(rows[0]!), slot * places, (slot + 1) * places);
    rows.forEach((row, index) => {
      const place = slot * places + index;
      rowOf[place] = BigInt(row);
      adapted.push([row, place]);
    });
  });
  return {
    slots: slots.map(({ adapter }) => adapter),
    places,
    rowOf,
    where: BigInt64Array.from(adapted, ([row]) => BigInt(row)),
    back: BigInt64Array.from(adapted, ([, place]) => BigInt(place)),
  };
}

/** The places that make K (m + slotCost) least. */
function cheapestPlaces(counts: readonly number[]): number {
  let best = { places: 1, cost: Number.POSITIVE_INFINITY };
  for (const places of new Set(counts)) {
    const slots = counts.reduce((sum, count) => sum + Math.ceil(count / places), 0);
    const cost = slots * (places + slotCost);
    if (cost < best.cost) best = { places, cost };
  }
  return best.places;
}

/** The slots in the order that leaves most adapters where they are held; the others fill the gaps. */
function inTheirPlaces<T extends { readonly adapter: number }>(slots: readonly T[], held: readonly number[]): T[] {
  const open = new Map<number, T[]>();
  for (const slot of slots) open.set(slot.adapter, [slot, ...(open.get(slot.adapter) ?? [])]);
  const kept = slots.map((_, place) => open.get(held[place] ?? Number.NaN)?.pop());
  const rest = [...open.values()].flat();
  return kept.map((slot) => slot ?? rest.pop()!);
}
