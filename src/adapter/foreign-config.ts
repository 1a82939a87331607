// What an adapter's configuration is when its file has none of PEFT's: ranks from the tensors, one scale for all modules
// (alpha = scale * r), and the modules themselves as targets.
import { type AdapterConfig, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { rankOf, scaleOf } from "../lora/scale.ts";

/** A module and the rank of its A and B. */
export interface RankedModule {
  readonly path: string;
  readonly rank: number;
}

/** The configuration of `modules`, all with the same scale: r is the commonest rank, the others are in the patterns. */
export function foreignConfig(modules: readonly RankedModule[], scale: number, more: LoraConfig = {}): AdapterConfig {
  const counts = new Map<number, number>();
  for (const { rank } of modules) counts.set(rank, (counts.get(rank) ?? 0) + 1);
  const [r] = [...counts].sort(([rankA, a], [rankB, b]) => b - a || rankA - rankB)[0] ?? [8];
  // The first pattern that matches wins, and a path matches every path that ends in it: longer ones first.
  const others = modules.filter(({ rank }) => rank !== r).sort((a, b) => b.path.length - a.path.length);
  const config = build(modules, others, (path) => path);
  if (isRight(config)) return config;
  // A path is also the end of another's: each gets a pattern of its own.
  const all = [...modules].sort((a, b) => b.path.length - a.path.length);
  return build(modules, all, (path) => path.replaceAll(".", "\\."));

  function build(
    paths: readonly RankedModule[],
    listed: readonly RankedModule[],
    pattern: (path: string) => string,
  ): AdapterConfig {
    return resolveConfig({
      ...more,
      r,
      loraAlpha: scale * r,
      targetModules: paths.map(({ path }) => path),
      rankPattern: Object.fromEntries(listed.map(({ path, rank }) => [pattern(path), rank])),
      alphaPattern: Object.fromEntries(listed.map(({ path, rank }) => [pattern(path), scale * rank])),
    });
  }

  function isRight(candidate: AdapterConfig): boolean {
    return modules.every(
      ({ path, rank }) => rankOf(candidate, path) === rank && Math.abs(scaleOf(candidate, path) / scale - 1) < 2 ** -50,
    );
  }
}
