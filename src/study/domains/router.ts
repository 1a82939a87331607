// A router over all adapters: says which domain an image is from, and so which adapter reads it. The whole set is then one
// model: each row of a batch runs with the adapter that the router picks.
import { type ImageSet, imagePixels } from "../../data/idx.ts";
import { gatherImages } from "../../data/preprocess.ts";
import type { Adapter } from "../../lora/config.ts";
import type { Model } from "../../onnx/model.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { type AdapterSession, createSession } from "../../train/infer.ts";
import { range } from "../batches.ts";
import { digitCount, readDigits } from "../evaluate.ts";
import type { Voice } from "../voice.ts";
import type { RouterResult } from "./result.ts";
import { trainRouter } from "./router-model.ts";
import type { Domain } from "./suite.ts";
import { attachDomains, domainImages, type TuneContext } from "./tune.ts";

const batchSize = 250;

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
    const choices = all.map(({ name }) => adapters.get(name) ?? null);
    const shares = await tested({ router, reader, choices }, all, context, voice);
    return { model, result: { domains: all.length, ...shares, parameters } };
  } finally {
    await Promise.all([router.dispose(), reader.dispose()]);
    await adapted.dispose();
  }
}

/** The set as one model. */
interface Routed {
  readonly router: AdapterSession;
  readonly reader: AdapterSession;
  /** The adapter for each domain; null: the base itself. */
  readonly choices: readonly (Adapter | null)[];
}

type Shares = Pick<RouterResult, "accuracy" | "routed" | "known">;

/** Reads the test images of all domains twice: with the adapter that the router picks, and with that of their own domain. */
async function tested(
  { router, reader, choices }: Routed,
  domains: readonly Domain[],
  { test, options, signal }: TuneContext,
  voice: Voice,
): Promise<Shares> {
  let [total, named, routed, known] = [0, 0, 0, 0];
  const progress = voice.progress("testing the router", domains.length, "domains");
  try {
    for (const [number, domain] of domains.entries()) {
      const set = domainImages(domain, test, "test", options.seed);
      const picked = await picks(router, set, signal);
      const own = (await readDigits(reader, set, choices[number] ?? null, signal)).predictions;
      // Where the router picks the image's own domain, the answer is the same.
      const others = range(set.count).filter((row) => picked[row] !== number);
      const adapters = [...others].map((row) => choices[picked[row]!] ?? null);
      const read = await readRows(reader, set, others, adapters, signal);
      const right = (row: number, digit: number): number => (set.labels[row] === digit ? 1 : 0);
      const ownRight = own.reduce((sum, digit, row) => sum + right(row, digit), 0);
      total += set.count;
      named += set.count - others.length;
      known += ownRight;
      routed += ownRight;
      others.forEach((row, at) => {
        routed += right(row, read[at]!) - right(row, own[row]!);
      });
      progress.update(number + 1);
    }
  } finally {
    progress.clear();
  }
  return { accuracy: named / total, routed: routed / total, known: known / total };
}

/** The domain that the router names for each image. */
async function picks(router: AdapterSession, set: ImageSet, signal: AbortSignal): Promise<Uint8Array> {
  const picked = new Uint8Array(set.count);
  for (const { start, x } of imageBatches(set, range(set.count), signal)) {
    const { data, dims } = (await router.run({ x })).get("logits")!;
    picked.set(largest(data as Float32Array, dims[1]!), start);
  }
  return picked;
}

/** What some images are read as, each with an adapter of its own. */
async function readRows(
  reader: AdapterSession,
  set: ImageSet,
  rows: Int32Array,
  adapters: readonly (Adapter | null)[],
  signal: AbortSignal,
): Promise<Uint8Array> {
  const digits = new Uint8Array(rows.length);
  for (const { start, x } of imageBatches(set, rows, signal)) {
    const output = await reader.run({ x }, { rows: adapters.slice(start, start + x.dims[0]!) });
    digits.set(largest(output.get("logits")!.data as Float32Array, digitCount), start);
  }
  return digits;
}

/** Images in batches, with the place of each batch's first. */
function* imageBatches(
  set: ImageSet,
  rows: Int32Array,
  signal: AbortSignal,
): Generator<{ readonly start: number; readonly x: Tensor }> {
  const images = new Float32Array(batchSize * imagePixels);
  for (let start = 0; start < rows.length; start += batchSize) {
    signal.throwIfAborted();
    const count = Math.min(batchSize, rows.length - start);
    gatherImages(set.images, rows, start, count, images);
    yield { start, x: tensor("float32", [count, imagePixels], images.subarray(0, count * imagePixels)) };
  }
}

/** The place of the largest value of each row. */
function largest(values: Float32Array, width: number): Uint8Array {
  return Uint8Array.from({ length: values.length / width }, (_, row) => {
    let best = 0;
    for (let at = 1; at < width; at++) if (values[row * width + at]! > values[row * width + best]!) best = at;
    return best;
  });
}
