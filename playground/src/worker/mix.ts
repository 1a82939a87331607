// Adapters as the page knows them, and a mix of them as one adapter: updates are summed exactly (PEFT's "cat": ranks add up),
// cut to a rank by the best approximation (Eckart and Young 1936), and made stronger or weaker.
import {
  type Adapter,
  combine,
  LowrankError,
  readAdapter,
  rescale,
  resize,
  spectrum,
  type Tensor,
  writeAdapter,
} from "lowrank";
import type { AdapterInfo, Composed, Files, Mix } from "../protocol.ts";

/** The head that symbols of one's own are read with, trained whole beside A and B. */
export const headPath = "classifier";

const prefix = "base_model.model.";

/** The adapter's tensors other than A and B: those of a head of its own. */
export function headTensors(adapter: Adapter): [string, Tensor][] {
  return [...adapter.tensors].filter(([key]) => !key.includes(".lora_"));
}

/** A and B alone: what ranks, sums and singular values are about. */
export function factorsOf(adapter: Adapter): Adapter {
  const tensors = new Map([...adapter.tensors].filter(([key]) => key.includes(".lora_")));
  const { labels: _labels, ...rest } = adapter;
  return { ...rest, config: { ...adapter.config, modulesToSave: null }, tensors };
}

export interface Mixed {
  /** Null where nothing is switched on. */
  readonly adapter: Adapter | null;
  readonly composed: Composed;
}

const nothing: Composed = { r: 0, parameters: 0, bytes: 0, spectrum: [], relativeError: 0, labels: null };

/** What the page has loaded, and the mixes that it asked for last. */
export class Shelf {
  readonly #adapters = new Map<string, Adapter>();
  readonly #mixed = new Map<string, Mixed>();

  put(id: string, adapter: Adapter): void {
    this.#adapters.set(id, adapter);
    this.#mixed.clear();
  }

  remove(id: string): void {
    this.#adapters.delete(id);
    this.#mixed.clear();
  }

  /** One adapter that does what the mix says. Throws LowrankError "config" where symbols and digits are mixed. */
  mix(mix: Mix): Mixed {
    const key = JSON.stringify(mix);
    let found = this.#mixed.get(key);
    if (found === undefined) {
      // Moving a slider asks for dozens; only the last few are asked for again.
      if (this.#mixed.size > 24) this.#mixed.clear();
      found = mixed(
        mix.parts.map(({ id, weight }) => ({ adapter: this.#get(id), weight })),
        mix,
      );
      this.#mixed.set(key, found);
    }
    return found;
  }

  #get(id: string): Adapter {
    const adapter = this.#adapters.get(id);
    if (adapter === undefined) throw new Error(`internal: no adapter ${id} is loaded`);
    return adapter;
  }
}

interface Weighted {
  readonly adapter: Adapter;
  readonly weight: number;
}

function mixed(parts: readonly Weighted[], { strength, rank }: Mix): Mixed {
  if (parts.length === 0) return { adapter: null, composed: nothing };
  const first = parts[0]!.adapter;
  const head = headTensors(first);
  if (parts.length > 1 && parts.some(({ adapter }) => headTensors(adapter).length > 0)) {
    throw new LowrankError(
      "config",
      "blend: an adapter with symbols of its own has a head of its own and runs alone; switch the others off",
    );
  }
  const whole = sumOf(parts);
  const cut = rank === null ? null : resize(whole, Math.min(rank, largestRank(whole)));
  const scaled = strength === 1 ? (cut?.adapter ?? whole) : rescale(cut?.adapter ?? whole, { factor: strength });
  const adapter = withHeadTensors(scaled, first, head);
  const layers = spectrum(scaled).map(({ path, r, singularValues, effectiveRank }) => ({
    ...{ path, r, singularValues, effectiveRank },
  }));
  return {
    adapter,
    composed: {
      r: Math.max(...layers.map(({ r }) => r)),
      parameters: parameterCount(adapter),
      bytes: fileBytes(adapter),
      spectrum: layers,
      relativeError: cut?.relativeError ?? 0,
      labels: first.labels ?? null,
    },
  };
}

/** One adapter alone stays as it is, so that what is taken home is what was trained. */
function sumOf(parts: readonly Weighted[]): Adapter {
  const [only, ...others] = parts;
  if (others.length > 0) {
    return combine(
      parts.map(({ adapter }) => factorsOf(adapter)),
      { weights: parts.map(({ weight }) => weight), method: "cat" },
    );
  }
  const factors = factorsOf(only!.adapter);
  return only!.weight === 1 ? factors : rescale(factors, { factor: only!.weight });
}

function withHeadTensors(adapter: Adapter, { config, labels }: Adapter, head: readonly [string, Tensor][]): Adapter {
  if (head.length === 0) return adapter;
  return {
    ...adapter,
    config: { ...adapter.config, modulesToSave: config.modulesToSave },
    tensors: new Map([...adapter.tensors, ...head]),
    ...(labels !== undefined && { labels }),
  };
}

/** The largest rank of any layer. */
export function largestRank(adapter: Adapter): number {
  return Math.max(...spectrum(factorsOf(adapter)).map(({ r }) => r));
}

function parameterCount(adapter: Adapter): number {
  return [...adapter.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
}

function fileBytes(adapter: Adapter): number {
  return [...writeAdapter(adapter).values()].reduce((sum, { length }) => sum + length, 0);
}

/** PEFT's files as an adapter. Throws LowrankError "adapter" with all that is wrong with them. */
export function adapterOf(files: Files, where: string): Adapter {
  return readAdapter(files, { where, maxRank: 256 });
}

export function infoOf(adapter: Adapter, files: Files): AdapterInfo {
  const targets = spectrum(factorsOf(adapter)).map(({ path }) => path);
  return {
    ...{ r: adapter.config.r, alpha: adapter.config.loraAlpha, isRslora: adapter.config.useRslora },
    ...{ targets, parameters: parameterCount(adapter) },
    bytes: Object.values(files).reduce((sum, { length }) => sum + length, 0),
    labels: adapter.labels ?? null,
  };
}

/** A layer's A [r, in] and B [out, r]; undefined where the adapter leaves it alone. */
export function factorsAt(adapter: Adapter | null, path: string): { a: Tensor; b: Tensor } | undefined {
  const a = adapter?.tensors.get(`${prefix}${path}.lora_A.weight`);
  const b = adapter?.tensors.get(`${prefix}${path}.lora_B.weight`);
  return a === undefined || b === undefined ? undefined : { a, b };
}
