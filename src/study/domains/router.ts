// A router over all adapters: says which domain an image is from, and so which adapter reads it. The whole set is then one
// model: each row of a batch runs with the adapter that the router picks.
import type { ImageSet } from "../../data/idx.ts";
import { gatherImages } from "../../data/preprocess.ts";
import type { Adapter } from "../../lora/config.ts";
import type { Model } from "../../onnx/model.ts";
import { tensor } from "../../tensor.ts";
import { type AdapterSession, createSession } from "../../train/infer.ts";
import { layerSizes } from "../network.ts";
import type { Voice } from "../voice.ts";
import type { RouterResult } from "./result.ts";
import { trainRouter } from "./router-model.ts";
import type { Domain } from "./suite.ts";
import { attachDomains, domainImages, type TuneContext } from "./tune.ts";

const batchSize = 240;

/**
 * Trains a router over the plain digits (read by the base itself) and the given image domains, and tests the whole set as one
 * model on the test images of all of them.
 */
export async function routeDomains(
  domains: readonly Domain[],
  adapters: ReadonlyMap<string, Adapter>,
  context: TuneContext,
  voice: Voice,
): Promise<{ readonly result: RouterResult; readonly model: Model }> {
  const all: readonly Domain[] = [{ name: "plain", transform: null, digit: null }, ...domains];
  const { model, parameters } = await trainRouter(all, context, voice);
  const router = await createSession(model, context.session);
  const adapted = attachDomains(context.base, context.options);
  const reader = await createSession(adapted, context.session);
  try {
    for (const [name, adapter] of adapters) reader.load(name, adapter);
    const choices = all.map(({ name }) => (adapters.has(name) ? name : null));
    const sets = all.map((domain) => domainImages(domain, context.test, "test", context.options.seed));
    const shares = await tested({ router, reader, choices, sets }, context.signal, voice);
    return { model, result: { domains: all.length, ...shares, parameters } };
  } finally {
    await Promise.all([router.dispose(), reader.dispose()]);
    await adapted.dispose();
  }
}

/** The set as one model, and images of each domain to test it on. */
interface Routed {
  readonly router: AdapterSession;
  readonly reader: AdapterSession;
  /** The adapter for each domain; null: the base itself. */
  readonly choices: readonly (string | null)[];
  readonly sets: readonly ImageSet[];
}

/** Reads all images twice: with the adapter that the router picks, and with that of their own domain. */
async function tested(
  { router, reader, choices, sets }: Routed,
  signal: AbortSignal,
  voice: Voice,
): Promise<{ accuracy: number; routed: number; known: number }> {
  let [named, routed, known] = [0, 0, 0];
  // Each batch has as many images of every domain as of the others: row = image * domains + domain.
  const total = sets.reduce((sum, { count }) => sum + count, 0);
  const [pixels] = layerSizes;
  const progress = voice.progress("testing the router", total, "images");
  for (let start = 0; start < total; start += batchSize) {
    if (signal.aborted) progress.clear();
    signal.throwIfAborted();
    const count = Math.min(batchSize, total - start);
    const images = new Float32Array(count * pixels);
    const own = Array.from({ length: count }, (_, row) => (start + row) % sets.length);
    const labels = own.map((domain, row) => {
      const index = Math.floor((start + row) / sets.length);
      const set = sets[domain]!;
      gatherImages(set.images, [index], 0, 1, images.subarray(row * pixels));
      return set.labels[index]!;
    });
    const x = tensor("float32", [count, pixels], images);
    const scores = (await router.run({ x })).get("logits")!.data as Float32Array;
    const picked = own.map((_, row) => largestAt(scores, row * sets.length, sets.length));
    const right = async (numbers: readonly number[]): Promise<number> => {
      const output = (await reader.run({ x }, { rows: numbers.map((number) => choices[number]!) })).get("logits")!;
      const logits = output.data as Float32Array;
      return labels.filter((label, row) => largestAt(logits, row * 10, 10) === label).length;
    };
    named += picked.filter((number, row) => number === own[row]).length;
    routed += await right(picked);
    known += await right(own);
    progress.update(start + count);
  }
  progress.clear();
  return { accuracy: named / total, routed: routed / total, known: known / total };
}

/** The place of the largest of `width` values from `start`. */
function largestAt(values: Float32Array, start: number, width: number): number {
  let best = 0;
  for (let at = 1; at < width; at++) if (values[start + at]! > values[start + best]!) best = at;
  return best;
}
