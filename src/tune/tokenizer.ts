// A Hugging Face tokenizer.json with the tokenizer_config.json beside it, for generation: text to tokens and back, and the tokens
// that end a text.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { readFileChecked } from "../runs/files.ts";

export interface TextTokenizer {
  encode(text: string): number[];
  /** Without special tokens. */
  decode(tokens: readonly number[]): string;
  /** What the tokenizer's configuration calls its end of a text; empty where it calls none. */
  readonly endTokens: readonly number[];
}

/**
 * @throws LowrankError "config" when the package that reads tokenizers is not installed, "file" or "data" for a faulty file.
 * @example const { encode } = await loadTokenizer("model/tokenizer.json");
 */
export async function loadTokenizer(path: string): Promise<TextTokenizer> {
  const { Tokenizer } = await import("@huggingface/tokenizers").catch((cause: unknown) => {
    throw new LowrankError(
      "config",
      "text needs the package @huggingface/tokenizers, which is not installed: npm install @huggingface/tokenizers",
      { cause },
    );
  });
  const json = parse(path, new TextDecoder().decode(await readFileChecked(path)));
  const configPath = join(dirname(path), "tokenizer_config.json");
  const text = await readFile(configPath, "utf8").catch(() => null); // many tokenizers have none
  const config = text === null ? {} : parse(configPath, text);
  let tokenizer: InstanceType<typeof Tokenizer>;
  try {
    tokenizer = new Tokenizer(json, config);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowrankError("data", `${path}: expected a Hugging Face tokenizer: ${reason}`, { cause });
  }
  const end = endTokenOf(config);
  const id = end === null ? undefined : tokenizer.token_to_id(end);
  return {
    encode: (given) => tokenizer.encode(given).ids,
    decode: (tokens) => tokenizer.decode([...tokens], { skip_special_tokens: true }),
    endTokens: id === undefined ? [] : [id],
  };
}

function parse(path: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw new LowrankError("data", `${path}: expected JSON`, { cause });
  }
  throw new LowrankError("data", `${path}: expected a JSON object`);
}

/** As a text, or as an object with its content. */
function endTokenOf({ eos_token: end }: Record<string, unknown>): string | null {
  if (typeof end === "string") return end;
  const content = end !== null && typeof end === "object" ? (end as { content?: unknown }).content : undefined;
  return typeof content === "string" ? content : null;
}
