// A model with trainable inputs: what training, evaluation and serving work on. The base it came from is untouched; the
// trainable values are inputs of `model`, so that one session runs it with any values.
import type { Dim, Model } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import type { Tensor, TensorType } from "../tensor.ts";
import type { AdapterConfig } from "./config.ts";

/** One trainable tensor. */
export interface Parameter {
  /** Its key in an adapter (PEFT's, for LoRA) and its name as an input of the graph. */
  readonly key: string;
  readonly type: TensorType;
  /** Sizes; a rank is a number here and a symbol in the graph, so that adapters of other ranks run in the same session. */
  readonly dims: readonly number[];
  readonly graphDims: readonly Dim[];
  /** The value with which the model is its base; none for A and B, of which the rank is 0 then. */
  readonly start?: () => Tensor<"float32">;
}

/** A layer with its branch. */
export interface AdaptedSite {
  readonly site: Site;
  readonly r: number;
  /** The factor s in W + s B A. */
  readonly scale: number;
  /** Keys of A [r, in] and B [out, r]. */
  readonly a: string;
  readonly b: string;
  /** With DoRA, the key of the magnitude m [out] (a Conv: [1, out, 1, …]). */
  readonly magnitude?: string;
  /** With loraBias, the key of the bias behind B [out]. */
  readonly biasOfB?: string;
}

interface Held {
  dispose(): Promise<void>;
}

/** A model whose trainable tensors are inputs. `dispose()` frees the sessions that were opened on it. */
export class AdaptedModel {
  /** The model as it was given. */
  readonly base: Model;
  /** The base with the trainable inputs, and the branches that use them. */
  readonly model: Model;
  readonly parameters: readonly Parameter[];
  /** Empty for a model that is trained whole. */
  readonly sites: readonly AdaptedSite[];
  /** Null for a model that is trained whole. */
  readonly config: AdapterConfig | null;
  /** By key, the A0 and B0 that were taken out of the weights of `model` (residual.ts); null where it has the base's own. */
  readonly initial: ReadonlyMap<string, Tensor> | null;
  readonly #held = new Map<string, Promise<Held>>();

  constructor(
    parts: Pick<AdaptedModel, "base" | "model" | "parameters" | "sites" | "config"> &
      Partial<Pick<AdaptedModel, "initial">>,
  ) {
    this.base = parts.base;
    this.model = parts.model;
    this.parameters = parts.parameters;
    this.sites = parts.sites;
    this.config = parts.config;
    this.initial = parts.initial ?? null;
  }

  /** The resource kept under `key`, made on first use and freed by `dispose()`. */
  hold<T extends Held>(key: string, make: () => Promise<T>): Promise<T> {
    let held = this.#held.get(key) as Promise<T> | undefined;
    if (held === undefined) {
      held = make();
      // A failed attempt is forgotten, so that the next one tries again.
      held.catch(() => this.#held.delete(key));
      this.#held.set(key, held);
    }
    return held;
  }

  async dispose(): Promise<void> {
    const held = [...this.#held.values()];
    this.#held.clear();
    for (const resource of await Promise.allSettled(held)) {
      if (resource.status === "fulfilled") await resource.value.dispose();
    }
  }
}
