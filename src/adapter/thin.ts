// An adapter as what arithmetic works on: for each module the update s B A as thin factors in double precision, with a block
// for each group of a Conv (B is block-diagonal there: group g has its own rows of A), and back into an adapter whose
// configuration says each module's rank and scale (PEFT 0.21: rank_pattern, alpha_pattern).
import { throwFaults } from "../errors.ts";
import { type Matrix, matrix, multiply, scaled } from "../linalg/matrix.ts";
import type { Adapter, AdapterConfig } from "../lora/config.ts";
import { type AdapterKeys, type AdapterModule, collectModules } from "../lora/keys.ts";
import { hasResidualBase } from "../lora/residual.ts";
import { patternFor, scaleOf } from "../lora/scale.ts";
import { elementCount, type Tensor, tensor } from "../tensor.ts";

/** A product B A that is not formed. */
export interface Thin {
  readonly b: Matrix; // [rows, r]
  readonly a: Matrix; // [r, columns]
}

/** One adapted module: its update is `scale` B A, blocks of rows one below the other. */
export interface ThinModule {
  readonly path: string;
  readonly keys: AdapterKeys;
  /** Over all blocks: what rankPattern says. */
  readonly r: number;
  readonly scale: number;
  /** Rows of the whole update. */
  readonly out: number;
  /** Sizes of A behind its rank: [in, ...kernel]. */
  readonly inDims: readonly number[];
  /** One for each group, each of rank r / groups. */
  readonly blocks: readonly Thin[];
}

/**
 * The modules of an adapter. Throws LowrankError "adapter" that names every tensor beyond A and B: a DoRA magnitude, a bias or
 * a saved module is no low-rank update of a weight, and the operation has no meaning for it.
 */
export function thinModules(adapter: Adapter, where: string): ThinModule[] {
  const faults: string[] = [];
  if (hasResidualBase(adapter))
    faults.push(
      "it belongs to the residual of its base (PiSSA, OLoRA); make it plain with plainAdapter(adapter, model)",
    );
  const modules = collectModules(adapter.tensors, faults);
  const known = new Set(modules.flatMap(({ keys }) => [keys.a, keys.b]));
  if (faults.length === 0) {
    for (const key of adapter.tensors.keys()) {
      if (!known.has(key)) faults.push(`${key}: expected the A and B of layers only; this has no meaning for it`);
    }
  }
  throwFaults("adapter", where, faults);
  return modules.map((module) => thin(adapter.config, module));
}

function thin(config: AdapterConfig, { path, keys, a, b }: AdapterModule): ThinModule {
  const [r, out] = [a.dims[0]!, b.dims[0]!];
  const groups = r / b.dims[1]!;
  const columns = a.data.length / r;
  const [rows, perGroup] = [out / groups, r / groups];
  const blocks = Array.from({ length: groups }, (_, group): Thin => {
    const ownB = b.data.subarray(group * rows * perGroup, (group + 1) * rows * perGroup);
    const ownA = a.data.subarray(group * perGroup * columns, (group + 1) * perGroup * columns);
    return { b: matrix(rows, perGroup, ownB), a: matrix(perGroup, columns, ownA) };
  });
  return { path, keys, r, scale: scaleOf(config, path), out, inDims: a.dims.slice(1), blocks };
}

/** The update s B A of a module, [out, in * kernel]. */
export function deltaOf({ blocks, scale, out, inDims }: ThinModule): Matrix {
  const columns = elementCount(inDims);
  const data = new Float64Array(out * columns);
  let at = 0;
  for (const { b, a } of blocks) {
    const product = scaled(multiply(b, a), scale).data;
    data.set(product, at);
    at += product.length;
  }
  return { rows: out, columns, data };
}

/** B and A of a module as one product, without its scale: the B of a Conv with groups is block-diagonal. */
export function wholeOf({ blocks, r, out, inDims }: ThinModule): Thin {
  if (blocks.length === 1) return blocks[0]!;
  const columns = elementCount(inDims);
  const [b, a] = [new Float64Array(out * r), new Float64Array(r * columns)];
  const [rows, own] = [out / blocks.length, r / blocks.length];
  for (const [group, block] of blocks.entries()) {
    for (let row = 0; row < rows; row++) {
      b.set(block.b.data.subarray(row * own, (row + 1) * own), (group * rows + row) * r + group * own);
    }
    a.set(block.a.data, group * own * columns);
  }
  return { b: { rows: out, columns: r, data: b }, a: { rows: r, columns, data: a } };
}

/** An adapter of these modules: `config` with other ranks and scales, values rounded once to float32. */
export function adapterOf(config: AdapterConfig, modules: readonly ThinModule[]): Adapter {
  const tensors = new Map<string, Tensor>();
  for (const { keys, r, out, inDims, blocks } of modules) {
    const ones = inDims.slice(1).map(() => 1);
    tensors.set(
      keys.a,
      joined(
        [r, ...inDims],
        blocks.map(({ a }) => a),
      ),
    );
    tensors.set(
      keys.b,
      joined(
        [out, r / blocks.length, ...ones],
        blocks.map(({ b }) => b),
      ),
    );
  }
  return { config: withRanks(config, modules), tensors };
}

function joined(dims: readonly number[], parts: readonly Matrix[]): Tensor<"float32"> {
  const data = new Float32Array(elementCount(dims));
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return tensor("float32", dims, data);
}

/** The configuration that gives each module its rank and its scale: the most frequent as r and loraAlpha, others by pattern. */
export function withRanks(
  config: AdapterConfig,
  modules: readonly Pick<ThinModule, "path" | "r" | "scale">[],
): AdapterConfig {
  const ranks = new Map(modules.map(({ path, r }) => [path, r]));
  const alphas = new Map(
    modules.map(({ path, r, scale }) => [path, scale * (config.useRslora ? Math.sqrt(r) : r)] as const),
  );
  const r = mostFrequent([...ranks.values()]) ?? config.r;
  const loraAlpha = mostFrequent([...alphas.values()]) ?? config.loraAlpha;
  return { ...config, r, loraAlpha, rankPattern: patternFor(ranks, r), alphaPattern: patternFor(alphas, loraAlpha) };
}

function mostFrequent(values: readonly number[]): number | undefined {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const best = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === best)?.[0];
}
