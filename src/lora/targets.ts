// Which module paths a configuration means. Rules are PEFT's (peft/tuners/tuners_utils.py, check_target_module_exists):
// a list entry matches a path that equals it or ends in `.` + it; a string is a regular expression matched in full;
// "all-linear" is every Linear (a packed one as a whole) but the output embedding and, for sequence classification, the head.
import { LowrankError, throwFaults } from "../errors.ts";
import { nearest } from "../nearest.ts";
import type { Site } from "../onnx/sites.ts";
import type { AdapterConfig } from "./config.ts";
import { chosenLayers, layerOf } from "./layers.ts";
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
 * @throws LowrankError "config" when nothing matches, when a list entry matches nothing (with the nearest paths; in a
 * configuration that was read from a file, one that matches is enough, as to PEFT), when an expression is invalid, or when
 * two sites share a path that was targeted.
 */
export function selectSites(
  config: Names & LayerNames & Partial<Pick<AdapterConfig, "extra">>,
  all: readonly Site[],
): Site[] {
  const paths = all.map((site) => site.modulePath);
  const targetModules = withoutLostScope(config.targetModules, paths);
  if (all.length === 0) throw new LowrankError("config", "targetModules: the model has no layer that can be adapted");
  if (typeof targetModules !== "string" && !isFromFile(config)) {
    const unmatched = targetModules.filter((entry) => !paths.some((path) => matchesEntry(entry, path)));
    throwFaults(
      "config",
      "targetModules",
      unmatched.map((entry) => `${JSON.stringify(entry)} matches no layer; ${nearestText(entry, paths)}`),
    );
  }
  const isMeant = namesOf({ ...config, targetModules });
  const wanted = all.filter((site) => isMeant(site, site.modulePath));
  const chosen = ofChosenLayers(config, wanted);
  if (chosen.length === 0) {
    throw new LowrankError(
      "config",
      `targetModules: ${JSON.stringify(targetModules)} matches no layer; ${nearestText(String(targetModules), paths)}`,
    );
  }
  const seen = new Set<string>();
  const repeated = chosen.filter(({ modulePath }) => seen.size === seen.add(modulePath).size);
  throwFaults(
    "model",
    "targetModules",
    repeated.map(
      (site) =>
        `two layers are called ${JSON.stringify(site.modulePath)}, with different weights; an adapter has one place for them: exclude it`,
    ),
  );
  return chosen;
}

type Names = Pick<AdapterConfig, "targetModules" | "excludeModules"> & Partial<Pick<AdapterConfig, "taskType">>;
type LayerNames = Partial<Pick<AdapterConfig, "layersToTransform" | "layersPattern">>;

/** Whether targetModules means a site of that path, and excludeModules does not. */
function namesOf({ targetModules, excludeModules, taskType = null }: Names): (site: Site, path: string) => boolean {
  const excluded = excludeModules === null ? () => false : matcher(excludeModules, "excludeModules");
  const named = targetModules === "all-linear" ? () => true : matcher(targetModules, "targetModules");
  return (site, path) => {
    if (excluded(path)) return false;
    if (targetModules === "all-linear") return isHiddenLinear(site, taskType);
    // An expression that means a packed layer means the whole of it, once; a list may name both.
    if (typeof targetModules === "string" && site.part !== undefined && named(site.part.of)) return false;
    return named(path);
  };
}

/**
 * Whether a configuration means a site, which it may know by another path than the model does.
 *
 * @throws LowrankError "config" for expressions that are not valid.
 */
export function targetTest(config: Names & LayerNames): (site: Site, path: string) => boolean {
  const isMeant = namesOf(config);
  const { layersToTransform = null, layersPattern = null } = config;
  const chosen = chosenLayers({ layersToTransform });
  const layer = layerOf({ layersPattern });
  return (site, path) =>
    isMeant(site, path) && (chosen === null || isEntry(config, path) || chosen.has(layer(path) ?? -1));
}

/** As in PEFT, layersToTransform leaves a path alone that is itself an entry of the targets. */
function isEntry({ targetModules }: Pick<AdapterConfig, "targetModules">, path: string): boolean {
  return typeof targetModules !== "string" && targetModules.includes(path);
}

/** People list the layers of several architectures in one file of PEFT's, which always has keys that we only keep. */
function isFromFile({ extra = {} }: { extra?: AdapterConfig["extra"] }): boolean {
  return Object.keys(extra).length > 0;
}

/** Of `wanted`, what layersToTransform leaves. */
function ofChosenLayers(config: Names & LayerNames, wanted: readonly Site[]): Site[] {
  const { layersToTransform = null, layersPattern = null } = config;
  const layers = chosenLayers({ layersToTransform });
  if (layers === null) return [...wanted];
  const layer = layerOf({ layersPattern });
  const numbers = new Map(wanted.map((site) => [site, layer(site.modulePath)]));
  const there = new Set(numbers.values());
  const listed = [...there].filter((number) => number !== undefined).sort((a, b) => a - b);
  const examples = wanted.slice(0, 5).map(({ modulePath }) => modulePath);
  const known =
    listed.length > 0 ? `the targets lie in ${listed.join(", ")}` : `no target lies in one: ${examples.join(", ")}`;
  const missing = [...layers].filter((number) => !there.has(number));
  throwFaults(
    "config",
    "layersToTransform",
    missing.map((number) => `layer ${number} has no target; ${known}`),
  );
  return wanted.filter((site) => isEntry(config, site.modulePath) || layers.has(numbers.get(site) ?? -1));
}

function isHiddenLinear({ kind, modulePath: path, part }: Site, taskType: string | null): boolean {
  if (kind !== "Linear" || part !== undefined) return false;
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
  return `nearest: ${nearest(entry, paths, 5).join(", ")}`;
}
