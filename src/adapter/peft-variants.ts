// What adapter_config.json and the tensors beside it say of DoRA, biases, modules_to_save and trained tokens, held against
// each other: PEFT 0.21 loads an adapter whose tensors and configuration differ without a word.
import { type AdapterConfig, tokenEntries } from "../lora/config.ts";
import { type AdapterModule, type SavedTensor, savedOf } from "../lora/keys.ts";
import { isSaved } from "../lora/saved.ts";
import type { Tensor } from "../tensor.ts";
import { quote } from "./json.ts";

/** What the tensors lack that the configuration asks for, and what they have that changes nothing under it. */
export function variantFaults(
  config: AdapterConfig,
  tensors: ReadonlyMap<string, Tensor>,
  modules: readonly AdapterModule[],
): string[] {
  return [...modules.flatMap((module) => moduleFaults(config, module)), ...tokenFaults(config, savedOf(tensors))];
}

function moduleFaults(
  { useDora, loraBias }: AdapterConfig,
  { path, keys, magnitude, biasOfB }: AdapterModule,
): string[] {
  const faults: string[] = [];
  const check = (isThere: boolean, isWanted: boolean, what: string, option: string): void => {
    if (isThere === isWanted) return;
    faults.push(
      isWanted
        ? `${quote(path)}: expected ${what} as ${option} is true, got none`
        : `${quote(path)}: expected no ${what} as ${option} is false, got one`,
    );
  };
  check(magnitude !== undefined, useDora, "lora_magnitude_vector", "use_dora");
  // An Embedding has none.
  if (keys.b.endsWith(".weight")) check(biasOfB !== undefined, loraBias, "lora_B.bias", "lora_bias");
  return faults;
}

function tokenFaults({ trainableTokenIndices }: AdapterConfig, saved: readonly SavedTensor[]): string[] {
  const entries = tokenEntries(trainableTokenIndices);
  const deltas = saved.filter(({ name }) => name === "tokens");
  const isFor = (entry: string | null, path: string): boolean => entry === null || path.endsWith(entry);
  const isThere = ([entry]: (typeof entries)[number]): boolean => deltas.some(({ path }) => isFor(entry, path));
  // An output layer that is tied to the embedding of the same rows has none of its own.
  const follows = ([, rows]: (typeof entries)[number]): boolean =>
    entries.some((other) => isThere(other) && other[1].join() === rows.join());
  const missing = entries
    .filter((entry) => !isThere(entry) && !follows(entry))
    .map(
      ([entry]) =>
        `trainable_token_indices${entry === null ? "" : ` ${quote(entry)}`}: expected trainable_tokens_delta, got none`,
    );
  const misfits = deltas.flatMap(({ key, path, value }) => {
    const rows = entries.find(([entry]) => isFor(entry, path))?.[1];
    if (rows === undefined) return [`${quote(key)}: expected trainable_token_indices for ${quote(path)}, got none`];
    const got = `[${value.dims.slice(0, 8).join(", ")}]`;
    return value.dims.length === 2 && value.dims[0] === rows.length
      ? []
      : [`${quote(key)}: expected [${rows.length}, width], got ${got}`];
  });
  return [...missing, ...misfits];
}

/** Saved tensors that the configuration does not name: PEFT writes its base's embeddings so, and loads them into the base. */
export function variantWarnings(config: AdapterConfig, tensors: ReadonlyMap<string, Tensor>): string[] {
  return savedOf(tensors)
    .filter((saved) => !isNamed(config, saved))
    .map(
      ({ key }) =>
        `${quote(key)} is of the base itself: merging takes it, and sessions expect that the base has the same`,
    );
}

/** Whether a tensor is there twice: with bias "all", PEFT stores the biases of saved modules under their inner names too. */
export function isCopy(key: string): boolean {
  return /\.(?:original_module|modules_to_save)\.(?:\w+\.)*bias$/.test(key);
}

/** Whether the configuration says that a tensor is trained. */
function isNamed({ bias, modulesToSave }: AdapterConfig, { path, name, ofBase }: SavedTensor): boolean {
  if (name === "tokens" || isSaved(path, modulesToSave)) return true;
  return name === "bias" && (bias === "all" || (bias === "lora_only" && ofBase));
}
