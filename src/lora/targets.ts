// Which module paths a configuration means. Rules are PEFT's (peft/tuners/tuners_utils.py, check_target_module_exists):
// a list entry matches a path that equals it or ends in `.` + it; a string is a regular expression matched in full;
// "all-linear" is every Linear but the output embedding and, for sequence classification, the head.
import { LowrankError, throwFaults } from "../errors.ts";
import type { Site } from "../onnx/sites.ts";
import type { AdapterConfig } from "./config.ts";
import { backtracking, patternFault } from "./scale.ts";

/** Last path segments under which language models keep the layer that maps to the vocabulary. */
const outputEmbeddings = new Set(["lm_head", "embed_out", "output_projection"]);

/** What Hugging Face's sequence classifiers call their last layer (PEFT's SEQ_CLS_HEAD_NAMES). */
const classificationHeads = new Set(["score", "classifier"]);

/** Upper estimate of the ways to try a path; real expressions stay under it, and what does takes seconds at the worst. */
const maxWays = 1e12;

/**
 * The sites that `config` targets, in graph order.
 *
 * @throws LowrankError "config" when nothing matches, when a list entry matches nothing (with the nearest paths), when an
 * expression is invalid, or when two sites share a path that was targeted.
 */
export function selectSites(
  config: Pick<AdapterConfig, "targetModules" | "excludeModules"> & Partial<Pick<AdapterConfig, "taskType">>,
  all: readonly Site[],
): Site[] {
  const { excludeModules } = config;
  const paths = all.map((site) => site.modulePath);
  const targetModules = withoutLostScope(config.targetModules, paths);
  if (all.length === 0) throw new LowrankError("config", "targetModules: the model has no layer that can be adapted");
  if (typeof targetModules !== "string") {
    const unmatched = targetModules.filter((entry) => !paths.some((path) => matchesEntry(entry, path)));
    throwFaults(
      "config",
      "targetModules",
      unmatched.map((entry) => `${JSON.stringify(entry)} matches no layer; ${nearestText(entry, paths)}`),
    );
  }
  const excluded = excludeModules === null ? () => false : matcher(excludeModules, "excludeModules");
  const named = targetModules === "all-linear" ? () => true : matcher(targetModules, "targetModules");
  const isWanted = (site: Site): boolean =>
    targetModules === "all-linear" ? isHiddenLinear(site, config.taskType ?? null) : named(site.modulePath);
  const chosen = all.filter((site) => isWanted(site) && !excluded(site.modulePath));
  if (chosen.length === 0) {
    throw new LowrankError(
      "config",
      `targetModules: ${JSON.stringify(targetModules)} matches no layer; ${nearestText(String(targetModules), paths)}`,
    );
  }
  const repeated = chosen.filter(
    (site, index) => chosen.findIndex((other) => other.modulePath === site.modulePath) !== index,
  );
  throwFaults(
    "model",
    "targetModules",
    repeated.map(
      (site) =>
        `two layers are called ${JSON.stringify(site.modulePath)}; a shared layer cannot be adapted: exclude it`,
    ),
  );
  return chosen;
}

function isHiddenLinear({ kind, modulePath: path }: Site, taskType: string | null): boolean {
  if (kind !== "Linear") return false;
  if (taskType === "SEQ_CLS" && classificationHeads.has(path)) return false;
  return !outputEmbeddings.has(path.split(".").at(-1)!);
}

/** Full paths, as PEFT writes for "all-linear", of a model whose export has lost a scope in front: the longest of its paths. */
function withoutLostScope(
  targets: AdapterConfig["targetModules"],
  paths: readonly string[],
): AdapterConfig["targetModules"] {
  if (typeof targets === "string") return targets;
  return targets.map((entry) => {
    if (paths.some((path) => matchesEntry(entry, path))) return entry;
    const ends = paths.filter((path) => entry.endsWith(`.${path}`));
    return ends.reduce((longest, path) => (path.length > longest.length ? path : longest), "") || entry;
  });
}

function matchesEntry(entry: string, path: string): boolean {
  return path === entry || path.endsWith(`.${entry}`);
}

function matcher(pattern: readonly string[] | string, option: string): (path: string) => boolean {
  if (typeof pattern !== "string") return (path) => pattern.some((entry) => matchesEntry(entry, path));
  // Patterns come with adapters of strangers too: see scale.ts.
  const fault = patternFault(pattern);
  if (fault !== null) throw new LowrankError("config", `${option}: ${JSON.stringify(pattern)}: ${fault}`);
  const expression = new RegExp(`^(?:${pattern})$`);
  return (path) => {
    if (backtracking(pattern, path.length) <= maxWays) return expression.test(path);
    throw new LowrankError("config", `${option}: ${JSON.stringify(pattern)} has too many repetitions; list the names`);
  };
}

function nearestText(entry: string, paths: readonly string[]): string {
  const wanted = entry.slice(0, 100); // distances take length x length
  const ranked = paths.map((path) => ({ path, distance: editDistance(wanted, path.slice(-wanted.length - 2)) }));
  ranked.sort((a, b) => a.distance - b.distance);
  return `nearest: ${ranked
    .slice(0, 5)
    .map(({ path }) => path)
    .join(", ")}`;
}

/** Levenshtein 1966, by rows. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
