// layersToTransform and layersPattern: which layer of a stack a module path lies in (PEFT 0.21, tuners/tuners_utils.py,
// check_target_module_exists, and tuners/lora/config.py).
import { LowrankError } from "../errors.ts";
import type { AdapterConfig } from "./config.ts";
import { backtracking, patternFault } from "./scale.ts";

type LayerChoice = Pick<AdapterConfig, "layersToTransform" | "layersPattern">;

/** What is wrong with a configuration's choice of layers; PEFT refuses the same. */
export function layerFaults({
  layersToTransform: chosen,
  layersPattern,
  targetModules,
}: LayerChoice & Pick<AdapterConfig, "targetModules">): string[] {
  const faults: string[] = [];
  for (const index of numbers(chosen)) {
    if (!Number.isInteger(index) || index < 0)
      faults.push(`layersToTransform: expected numbers of layers, got ${index}`);
  }
  for (const pattern of patterns(layersPattern)) {
    const fault = patternFault(pattern);
    if (fault !== null) faults.push(`layersPattern ${JSON.stringify(pattern.slice(0, 100))}: ${fault}`);
  }
  if (patterns(layersPattern).length > 0 && chosen === null) {
    faults.push("layersPattern: expected layersToTransform with it, got none");
  }
  if (typeof targetModules === "string" && targetModules !== "all-linear") {
    for (const [name, value] of Object.entries({ layersToTransform: chosen, layersPattern })) {
      if (value !== null)
        faults.push(`${name}: expected a list of targetModules with it, got an expression; write the layers into that`);
    }
  }
  return faults;
}

/**
 * The layer that a module path lies in: the first number behind a container's name; undefined when it is in none.
 *
 * @example
 * layerOf({ layersPattern: null })("model.layers.1.experts.0.q_proj") // 1
 */
export function layerOf({ layersPattern }: Pick<AdapterConfig, "layersPattern">): (path: string) => number | undefined {
  const containers = patterns(layersPattern);
  const expressions =
    containers.length === 0
      ? [/^.*?\.[^.]*\.(?<idx>\d+)\./]
      : containers.map((pattern) => new RegExp(`^(?:(?:^|.*?\\.)${pattern}\\.(?<idx>\\d+)\\.)`));
  return (path) => {
    // Patterns come with adapters of strangers too: see scale.ts.
    const ways = containers.reduce((most, pattern) => Math.max(most, backtracking(pattern, path.length)), 1);
    if (ways * path.length > maxWays) {
      throw new LowrankError(
        "config",
        `layersPattern: ${JSON.stringify(layersPattern)} has too many repetitions; write it with fewer`,
      );
    }
    for (const expression of expressions) {
      const match = expression.exec(path);
      if (match !== null) return match.groups?.idx === undefined ? undefined : Number(match.groups.idx);
    }
    return undefined;
  };
}

/** The layers that are to be adapted; null for all (without layersToTransform, or with an empty list). */
export function chosenLayers({
  layersToTransform,
}: Pick<AdapterConfig, "layersToTransform">): ReadonlySet<number> | null {
  const chosen = new Set(numbers(layersToTransform));
  return chosen.size === 0 ? null : chosen;
}

/** Upper estimate of the ways to try a path: seconds at the worst. */
const maxWays = 1e10;

function numbers(chosen: AdapterConfig["layersToTransform"]): readonly number[] {
  return chosen === null ? [] : typeof chosen === "number" ? [chosen] : chosen;
}

function patterns(given: AdapterConfig["layersPattern"]): readonly string[] {
  return given === null || given === "" ? [] : typeof given === "string" ? [given] : given;
}
