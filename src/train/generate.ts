// Text generation, token by token, with any adapter: greedy, or drawn at a temperature. A decoder exported with a cache of keys
// and values reads each token once; one without reads the whole sequence again for each, which gives the same tokens.
import { LowrankError, throwFaults } from "../errors.ts";
import { AdaptedModel } from "../lora/adapted.ts";
import { type CacheInput, cacheInputs, refuseMergedDecoder, withoutCache } from "../onnx/cache.ts";
import { bfloat16ToFloat32, float16ToFloat32 } from "../onnx/half.ts";
import type { Dim, Graph, Model, ValueInfo } from "../onnx/model.ts";
import { createRandom, type Random } from "../random.ts";
import type { SessionOptions } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type AdapterSession, createSession } from "./infer.ts";
import type { AdapterChoice } from "./loaded-adapters.ts";

export interface GenerateOptions {
  /** Default null, the base itself. */
  readonly adapter?: AdapterChoice;
  /** Default 64. */
  readonly maxNewTokens?: number;
  /** 0 (default) takes the likeliest token, the first of equals; above, tokens are drawn from softmax(logits / temperature). */
  readonly temperature?: number;
  /** Of what is drawn; default 0. */
  readonly seed?: number;
  /** Tokens that end the text; they are not given. */
  readonly endTokens?: readonly number[];
  readonly signal?: AbortSignal;
}

export interface Decoder {
  /** The session beneath, to load adapters into. */
  readonly session: AdapterSession;
  /**
   * The tokens that follow a prompt, one at a time.
   *
   * @throws LowrankError "data" for a prompt that is empty or too long for the model, and scores that are no numbers.
   * @example for await (const token of decoder.generate([464, 3290], { adapter })) ids.push(token);
   */
  generate(prompt: readonly number[], options?: GenerateOptions): AsyncGenerator<number, void>;
  dispose(): Promise<void>;
}

/**
 * Opens a decoder: a model of `input_ids` [batch, tokens] that gives scores [batch, tokens, vocabulary].
 *
 * @param options `output` is the name of the scores; default "logits", or else the first output.
 * @throws LowrankError "model" that lists the inputs which generation cannot fill.
 * @example const decoder = await openDecoder(attachLora(model, adapter.config));
 */
export async function openDecoder(
  model: Model | AdaptedModel,
  options: SessionOptions & { readonly output?: string } = {},
): Promise<Decoder> {
  const { output, ...session } = options;
  const whole = model instanceof AdaptedModel ? model.model : model;
  const own = new Set(model instanceof AdaptedModel ? model.parameters.map(({ key }) => key) : []);
  refuseMergedDecoder(whole);
  const plan = planOf(whole, own, output);
  return new SessionDecoder(await createSession(model, session), plan);
}

/** What a decoder reads and gives, by name. */
interface Plan {
  readonly tokens: ValueInfo;
  readonly positions: ValueInfo | undefined;
  readonly mask: ValueInfo | undefined;
  /** Inputs of the tokens' shape that are 0 for one text: token types. */
  readonly zeros: readonly ValueInfo[];
  /** Each input of a cache with the output that continues it. */
  readonly caches: readonly (readonly [past: string, present: string])[];
  readonly scores: string;
  /** The sizes of the tokens' axes, where the export has fixed them. */
  readonly batch: number;
  readonly length: number | null;
}

function planOf(model: Model, own: ReadonlySet<string>, output: string | undefined): Plan {
  const { graph } = model;
  const inputs = graph.inputs.filter(({ name }) => !own.has(name) && !graph.initializers.has(name));
  const caches = cacheInputs(graph);
  // Throws for caches of a fixed length, and says how to export instead.
  if (caches.some(({ axis }) => axis < 0)) withoutCache(model);
  const named = (name: string): ValueInfo | undefined => inputs.find((input) => input.name === name);
  const [tokens, positions, mask] = ["input_ids", "position_ids", "attention_mask"].map(named);
  const zeros = inputs.filter(({ name }) => name === "token_type_ids");
  const known = new Set([tokens, positions, mask, ...zeros].map((info) => info?.name));
  const others = inputs.filter(({ name }) => !known.has(name) && !caches.some(({ info }) => info.name === name));
  throwFaults("model", "generate", [
    ...(tokens === undefined ? ["expected an input input_ids, as decoders have"] : []),
    ...others.map(({ name }) => `input ${name}: generation does not know what belongs in it`),
  ]);
  const scores = scoresOf(graph, output);
  const fixed = (dim: Dim | undefined): number | null => (typeof dim === "number" ? dim : null);
  const [batch, length] = [fixed(tokens!.shape?.[0]) ?? 1, fixed(tokens!.shape?.[1])];
  if (length !== null && caches.length > 0) {
    throw new LowrankError("model", `generate: input_ids: expected any number of tokens beside a cache, got ${length}`);
  }
  return { tokens: tokens!, positions, mask, zeros, caches: pairsOf(graph, caches), scores, batch, length };
}

function scoresOf({ outputs }: Graph, wanted: string | undefined): string {
  const found =
    outputs.find(({ name }) => name === (wanted ?? "logits")) ?? (wanted === undefined ? outputs[0] : undefined);
  if (found !== undefined) return found.name;
  const names = outputs.map(({ name }) => name).join(", ");
  throw new LowrankError("config", `output: the model has no output ${JSON.stringify(wanted)}; it has ${names}`);
}

/** `past_key_values.0.key` goes on as `present.0.key`; exporters differ in the first word alone. */
function pairsOf({ outputs }: Graph, caches: readonly CacheInput[]): (readonly [string, string])[] {
  const rest = (name: string): string => name.replace(/^(past|present)(_key_values)?/i, "");
  const presents = outputs.filter(({ name }) => /^present/i.test(name));
  const pairs = caches.map(
    ({ info: { name } }) => [name, presents.find((one) => rest(one.name) === rest(name))?.name] as const,
  );
  throwFaults(
    "model",
    "generate",
    pairs.flatMap(([past, present]) => (present === undefined ? [`input ${past}: no output continues it`] : [])),
  );
  return pairs as (readonly [string, string])[];
}

class SessionDecoder implements Decoder {
  readonly session: AdapterSession;
  readonly #plan: Plan;

  constructor(session: AdapterSession, plan: Plan) {
    this.session = session;
    this.#plan = plan;
  }

  async *generate(prompt: readonly number[], options: GenerateOptions = {}): AsyncGenerator<number, void> {
    const { maxNewTokens = 64, temperature = 0, seed = 0, endTokens = [], adapter = null, signal } = options;
    checkOptions(prompt, maxNewTokens, temperature);
    const { length: limit } = this.#plan;
    if (limit !== null && prompt.length > limit) {
      throw new LowrankError("data", `prompt: expected at most the model's ${limit} tokens, got ${prompt.length}`);
    }
    const ends = new Set(endTokens);
    const random = createRandom(seed, "generate");
    const tokens = [...prompt];
    let cache: Record<string, Tensor> = {};
    let read = 0; // tokens that the cache holds
    for (let made = 0; made < maxNewTokens && (limit === null || tokens.length <= limit); made++) {
      signal?.throwIfAborted();
      const outputs = await this.#run(tokens, read, cache, adapter, made);
      const token = choose(scoresAt(outputs.get(this.#plan.scores)!, tokens.length - read - 1), temperature, random);
      if (ends.has(token)) return;
      if (this.#plan.caches.length > 0) {
        cache = Object.fromEntries(this.#plan.caches.map(([past, present]) => [past, outputs.get(present)!]));
        read = tokens.length;
      }
      tokens.push(token);
      yield token;
    }
  }

  async dispose(): Promise<void> {
    await this.session.dispose();
  }

  async #run(
    tokens: readonly number[],
    read: number,
    cache: Readonly<Record<string, Tensor>>,
    adapter: AdapterChoice,
    made: number,
  ): Promise<Map<string, Tensor>> {
    const inputs = { ...inputsFor(this.#plan, tokens, read), ...cache };
    try {
      return await this.session.run(inputs, { adapter });
    } catch (cause) {
      // Positions end somewhere, and no model says where.
      if (made === 0 || !(cause instanceof LowrankError) || cause.code !== "runtime") throw cause;
      throw new LowrankError(
        "runtime",
        `generate: the model refused ${tokens.length} tokens, after ${made} new ones: ask for fewer (maxNewTokens), if that is more than it was made for; ${cause.message}`,
        { cause },
      );
    }
  }
}

function checkOptions(prompt: readonly number[], maxNewTokens: number, temperature: number): void {
  throwFaults("config", "generate", [
    ...(Number.isSafeInteger(maxNewTokens) && maxNewTokens >= 0
      ? []
      : [`maxNewTokens: expected a whole number of 0 or more, got ${maxNewTokens}`]),
    ...(Number.isFinite(temperature) && temperature >= 0
      ? []
      : [`temperature: expected 0 or more, got ${temperature}`]),
  ]);
  if (prompt.length === 0) throw new LowrankError("data", "prompt: expected a token or more, got none");
}

/** Inputs [batch, tokens] for what follows the `read` tokens of the cache. What an export fixed is filled up: a decoder never looks ahead. */
function inputsFor(
  { tokens: info, positions, mask, zeros, batch, length }: Plan,
  tokens: readonly number[],
  read: number,
): Record<string, Tensor> {
  const [fresh, width] = [tokens.length - read, length ?? tokens.length - read];
  const past = Math.min(read, tokens.length);
  const inputs: Record<string, Tensor> = {
    [info.name]: integers(info, batch, width, (at) => (at < fresh ? tokens[past + at]! : 0)),
  };
  if (positions !== undefined) inputs[positions.name] = integers(positions, batch, width, (at) => past + at);
  if (mask !== undefined) inputs[mask.name] = integers(mask, batch, past + width, (at) => (at < past + fresh ? 1 : 0));
  for (const zero of zeros) inputs[zero.name] = integers(zero, batch, width, () => 0);
  return inputs;
}

function integers({ type }: ValueInfo, batch: number, width: number, valueAt: (column: number) => number): Tensor {
  const dims = [batch, width];
  const values = Array.from({ length: batch * width }, (_, index) => valueAt(index % width));
  if (type === "int32") return tensor(type, dims, Int32Array.from(values));
  if (type === "float32") return tensor(type, dims, Float32Array.from(values));
  return type === "bool"
    ? tensor(type, dims, Uint8Array.from(values))
    : tensor("int64", dims, BigInt64Array.from(values, BigInt));
}

/** The scores [vocabulary] that follow the token at `position` of the first row; [batch, vocabulary] has those of the last alone. */
function scoresAt({ type, dims, data }: Tensor, position: number): ArrayLike<number> {
  const vocabulary = dims.at(-1) ?? 0;
  if (dims.length < 2 || dims.length > 3 || vocabulary === 0) {
    throw new LowrankError("model", `generate: expected scores [batch, tokens, vocabulary], got [${dims}]`);
  }
  // Some exports give the scores of the last token only.
  const row = dims.length === 2 ? 0 : Math.min(position, dims[1]! - 1);
  const scores = data.subarray(row * vocabulary, (row + 1) * vocabulary);
  if (type === "float16") return float16ToFloat32(scores as Uint16Array);
  if (type === "bfloat16") return bfloat16ToFloat32(scores as Uint16Array);
  return scores as Float32Array;
}

function choose(scores: ArrayLike<number>, temperature: number, random: Random): number {
  let best = 0;
  for (let at = 0; at < scores.length; at++) {
    if (Number.isNaN(scores[at]))
      throw new LowrankError("data", `generate: the model's score of token ${at} is no number`);
    if (scores[at]! > scores[best]!) best = at;
  }
  if (temperature === 0) return best;
  // Weights relative to the largest, which is 1: none overflows.
  const weights = Float64Array.from(scores, (score) => Math.exp((score - scores[best]!) / temperature));
  let left = random.uniform() * weights.reduce((sum, weight) => sum + weight, 0);
  for (const [at, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return at;
  }
  return best; // rounding alone comes here
}
