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
  const slots: Slot[] = [];
  for (const [adapter, rows] of rowsOf)
    for (let start = 0; start < rows.length; start += places)
      slots.push({ adapter, rows: rows.slice(start, start + places) });
  return asBlock(inTheirPlaces(slots, held), places);
}

interface Slot {
  readonly adapter: number;
  readonly rows: readonly number[];
}

function asBlock(slots: readonly Slot[], places: number): RowPlan {
  const count = slots.reduce((sum, { rows }) => sum + rows.length, 0);
  const [rowOf, where, back] = [
    new BigInt64Array(slots.length * places),
    new BigInt64Array(count),
    new BigInt64Array(count),
  ];
  let [place, at] = [0, 0];
  for (const { rows } of slots) {
    for (let index = 0; index < places; index++, place++) {
      const row = rows[index];
      rowOf[place] = BigInt(row ?? rows[0]!);
      if (row === undefined) continue;
      where[at] = rowOf[place]!;
      back[at++] = BigInt(place);
    }
  }
  return { slots: slots.map(({ adapter }) => adapter), places, rowOf, where, back };
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
function inTheirPlaces(slots: readonly Slot[], held: readonly number[]): Slot[] {
  const placeOf = new Map<number, number>();
  for (let place = Math.min(held.length, slots.length) - 1; place >= 0; place--) placeOf.set(held[place]!, place);
  const ordered = new Array<Slot | undefined>(slots.length).fill(undefined);
  const rest: Slot[] = [];
  for (const slot of slots) {
    const place = placeOf.get(slot.adapter);
    if (place === undefined || ordered[place] !== undefined) rest.push(slot);
    else ordered[place] = slot;
  }
  return ordered.map((slot) => slot ?? rest.pop()!);
}
