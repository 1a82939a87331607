// The bank that rows read their adapters from: for each site one block with a slot for each adapter of the batch, filled by
// copying. What the slots hold stays from one run to the next, so that only newcomers are copied; a batch of the same
// adapters, in whatever order, copies nothing. The runtime reads the blocks in place.
import type { RowModel, RowSite } from "../lora/rows.ts";
import { stackedFrom, stackRanks } from "../lora/stack.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { planRows } from "./row-plan.ts";

/** An adapter as the graph wants it: A and B by their keys, for every site (rank 0, or zeros, where it has none). */
export interface Fitted {
  /** Tells it from every other. */
  readonly id: number;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

type BankSite = Extract<RowSite, { form: "bank" }>;
type MaskSite = Extract<RowSite, { form: "mask" }>;

/** The bank's part for one site. */
interface Block {
  readonly row: BankSite;
  /** Rank of every slot; adapters of lower rank end in zeros. */
  r: number;
  a: Float32Array; // [capacity, r, in]
  b: Float32Array; // [capacity, out, r]
  /** The adapter in each slot. */
  held: number[];
}

export class RowBank {
  readonly #model: RowModel;
  readonly #blocks: readonly Block[];
  #held: readonly number[] = [];
  /** What the inputs for rows are fed while they are not used. */
  readonly unused: ReadonlyMap<string, Tensor>;

  constructor(model: RowModel) {
    this.#model = model;
    this.#blocks = model.sites
      .filter((row) => row.form === "bank")
      .map((row) => ({ row, r: 0, a: new Float32Array(), b: new Float32Array(), held: [] }));
    const { byRow, count, rowOf, back, where } = model.inputs;
    this.unused = new Map<string, Tensor>([
      [byRow, tensor("bool", [], Uint8Array.of(0))],
      [count, tensor("int64", [1], BigInt64Array.of(1n))],
      [rowOf, tensor("int64", [0, 1], new BigInt64Array())],
      [back, tensor("int64", [0], new BigInt64Array())],
      [where, tensor("int64", [0, 1], new BigInt64Array())],
      ...model.sites.flatMap(unusedSite),
    ]);
  }

  /**
   * The inputs for a batch whose rows have these adapters, null for the base; at least one row has one. They are good until
   * the next call.
   */
  feeds(rows: readonly (Fitted | null)[]): Map<string, Tensor> {
    const adapters = new Map<number, Fitted>();
    for (const fitted of rows) if (fitted !== null) adapters.set(fitted.id, fitted);
    const wanted = rows.map((fitted) => fitted?.id ?? null);
    const { slots, places, rowOf, back, where } = planRows(wanted, this.#held);
    this.#held = slots;
    const { inputs, sites } = this.#model;
    const feeds = new Map<string, Tensor>([
      [inputs.byRow, tensor("bool", [], Uint8Array.of(1))],
      [inputs.count, tensor("int64", [1], BigInt64Array.of(BigInt(rows.length)))],
      [inputs.rowOf, tensor("int64", [slots.length, places], rowOf)],
      [inputs.back, tensor("int64", [back.length], back)],
      [inputs.where, tensor("int64", [where.length, 1], where)],
    ]);
    const holders = slots.map((id) => adapters.get(id)!);
    for (const block of this.#blocks) fillBlock(block, holders, feeds);
    for (const row of sites) if (row.form === "mask") feedMask(row, [...adapters.values()], wanted, feeds);
    return feeds;
  }
}

function unusedSite(row: RowSite): (readonly [string, Tensor])[] {
  const { inFeatures, outFeatures, kernel } = row.adapted.site;
  if (row.form === "mask") return [[row.mask, tensor("bool", [0, 1, 1, ...kernel.map(() => 1)], new Uint8Array())]];
  return [
    [row.a, tensor("float32", [0, 1, inFeatures], new Float32Array())],
    [row.b, tensor("float32", [0, outFeatures, 1], new Float32Array())],
  ];
}

/** Brings the block to what `slots` want, and adds it to `feeds`. */
function fillBlock(block: Block, slots: readonly Fitted[], feeds: Map<string, Tensor>): void {
  const { adapted, a, b } = block.row;
  const { inFeatures, outFeatures } = adapted.site;
  const factorA = ({ tensors }: Fitted): Tensor<"float32"> => tensors.get(adapted.a) as Tensor<"float32">;
  let most = 1; // a rank of 0 would leave the product's values to the runtime
  for (const fitted of slots) most = Math.max(most, factorA(fitted).dims[0]!);
  reshape(block, most, slots.length);
  const { r, held } = block;
  const [sizeA, sizeB] = [r * inFeatures, outFeatures * r];
  for (const [slot, fitted] of slots.entries()) {
    if (held[slot] === fitted.id) continue;
    const [A, B] = [factorA(fitted), fitted.tensors.get(adapted.b) as Tensor<"float32">];
    block.a.set(A.data, slot * sizeA);
    block.a.fill(0, slot * sizeA + A.data.length, (slot + 1) * sizeA);
    copyPadded(B.data, A.dims[0]!, block.b.subarray(slot * sizeB, (slot + 1) * sizeB), r);
    held[slot] = fitted.id;
  }
  const count = slots.length;
  feeds.set(a, tensor("float32", [count, r, inFeatures], block.a.subarray(0, count * sizeA)));
  feeds.set(b, tensor("float32", [count, outFeatures, r], block.b.subarray(0, count * sizeB)));
}

/** Makes room for `count` adapters of rank `r`. A block of up to twice the rank stays: ranks change from batch to batch. */
function reshape(block: Block, r: number, count: number): void {
  const { inFeatures, outFeatures } = block.row.adapted.site;
  const isRankGood = block.r >= r && block.r <= 2 * r;
  if (isRankGood && block.a.length >= count * block.r * inFeatures) return;
  if (!isRankGood) block.r = r;
  const capacity = 2 ** Math.ceil(Math.log2(count));
  block.a = new Float32Array(capacity * block.r * inFeatures);
  block.b = new Float32Array(capacity * block.r * outFeatures);
  block.held = [];
}

/** B [out, r] into [out, width], with zeros behind. */
function copyPadded(B: Float32Array, r: number, into: Float32Array, width: number): void {
  if (r === width) {
    into.set(B);
    return;
  }
  into.fill(0);
  for (let from = 0, to = 0; from < B.length; from += r, to += width)
    for (let k = 0; k < r; k++) into[to + k] = B[from + k]!;
}

/** A Conv's own A and B take all adapters of the batch, and the mask says whose ranks a row uses. */
function feedMask(
  { adapted, mask }: MaskSite,
  adapters: readonly Fitted[],
  wanted: readonly (number | null)[],
  feeds: Map<string, Tensor>,
): void {
  const { site } = adapted;
  const parts = adapters.map(({ tensors }) => ({ a: tensors.get(adapted.a)!, b: tensors.get(adapted.b)!, weight: 1 }));
  const stacked = stackRanks(site, parts);
  const owners = stackedFrom(site, parts).map((index) => adapters[index]!.id);
  const used = Uint8Array.from(wanted.flatMap((id) => owners.map((owner) => Number(owner === id))));
  feeds.set(adapted.a, stacked.a);
  feeds.set(adapted.b, stacked.b);
  feeds.set(mask, tensor("bool", [wanted.length, 1, owners.length, ...site.kernel.map(() => 1)], used));
}
