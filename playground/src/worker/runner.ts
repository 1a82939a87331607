// Running the base with any adapter: one session serves all that read digits, since adapters are inputs; symbols of one's own
// need another head, and so a session of their own.
import {
  type AdaptedModel,
  type Adapter,
  type AdapterSession,
  attachLora,
  createSession,
  type Model,
  type Tensor,
  tensor,
  withHead,
} from "lowrank";
import { normalized, pixelCount } from "../digit/bytes.ts";
import type { Device, Digits } from "../protocol.ts";
import { layerPaths } from "./base.ts";
import { headPath } from "./mix.ts";
import type { Pause } from "./serve.ts";

/** Rows in one run: as many as keep the runtime's threads busy, and no more than a prediction may wait for. */
const chunk = 50;

/** What computes, and on how many threads. */
export interface Where {
  readonly device: Device;
  readonly threads: number;
}

/** The base with the head that an adapter needs. */
export function modelFor(base: Model, labels: readonly string[] | null): Model {
  return labels === null ? base : withHead(base, { labels });
}

export class Runner {
  readonly #base: Model;
  readonly #where: Where;
  #digits: Promise<AdapterSession> | undefined;
  #symbols: { key: string; session: Promise<AdapterSession> } | undefined;

  constructor(base: Model, where: Where) {
    this.#base = base;
    this.#where = where;
  }

  /** Logits [count, classes] for images of bytes. Without an adapter, the base's own. Pauses between runs where there are several. */
  async logits(images: Uint8Array, adapter: Adapter | null, pause?: Pause): Promise<Float32Array> {
    const count = images.length / pixelCount;
    const session = await this.#sessionFor(adapter?.labels ?? null);
    const parts: Float32Array[] = [];
    for (let start = 0; start < count; start += chunk) {
      if (start > 0) await pause?.();
      const rows = images.subarray(start * pixelCount, Math.min(start + chunk, count) * pixelCount);
      const x = tensor("float32", [rows.length / pixelCount, pixelCount], normalized(rows));
      const outputs = await session.run({ x }, { adapter });
      parts.push(outputs.values().next().value?.data as Float32Array);
    }
    return parts.length === 1 ? parts[0]! : joined(parts);
  }

  /** Throws LowrankError "adapter" with every tensor that does not fit the base. */
  async check(adapter: Adapter): Promise<void> {
    const session = await this.#sessionFor(adapter.labels ?? null);
    session.load("checked", adapter);
    session.unload("checked");
  }

  #sessionFor(labels: readonly string[] | null): Promise<AdapterSession> {
    if (labels === null) {
      this.#digits ??= createSession(attachLora(this.#base, { targetModules: layerPaths }), this.#where);
      return this.#digits;
    }
    const key = JSON.stringify(labels);
    if (this.#symbols?.key !== key) {
      void this.#symbols?.session.then((session) => session.dispose()).catch(() => undefined);
      this.#symbols = { key, session: createSession(symbolModel(this.#base, labels), this.#where) };
    }
    return this.#symbols.session;
  }
}

/** What symbols are trained and run on: LoRA below, and a head of their own that is trained whole. */
export function symbolModel(
  base: Model,
  labels: readonly string[],
  config: { r?: number; alpha?: number } = {},
): AdaptedModel {
  return attachLora(modelFor(base, labels), {
    ...(config.r !== undefined && { r: config.r }),
    ...(config.alpha !== undefined && { loraAlpha: config.alpha }),
    targetModules: layerPaths.slice(0, 2),
    modulesToSave: [headPath],
  });
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The class of the largest logit for each row. */
export function readings(logits: Float32Array, classes: number): Uint8Array {
  const read = new Uint8Array(logits.length / classes);
  for (let row = 0; row < read.length; row++) {
    const scores = logits.subarray(row * classes, (row + 1) * classes);
    read[row] = scores.indexOf(Math.max(...scores));
  }
  return read;
}

/** How many of each class were asked, and how many of those were read wrong. */
export function tally({ labels }: Digits, read: Uint8Array, classes: number): { counts: number[]; wrong: number[] } {
  const [counts, wrong] = [new Array<number>(classes).fill(0), new Array<number>(classes).fill(0)];
  for (const [index, label] of labels.entries()) {
    counts[label]!++;
    if (read[index] !== label) wrong[label]!++;
  }
  return { counts, wrong };
}

/** A batch of images and labels as the trainer takes it. */
export function batchOf({ images, labels }: Digits): { inputs: { x: Tensor }; labels: Tensor } {
  return {
    inputs: { x: tensor("float32", [labels.length, pixelCount], normalized(images)) },
    labels: tensor(
      "int64",
      [labels.length],
      BigInt64Array.from(labels, (label) => BigInt(label)),
    ),
  };
}
