// A Hugging Face tokenizer from its files: tokenizer.json, and beside it tokenizer_config.json (special tokens, chat template)
// and chat_template.jinja.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { systemFault } from "./files.ts";
import { loadPackage } from "./package.ts";

export interface ChatMessage {
  readonly role: string;
  readonly content: unknown;
}

export interface TextTokenizer {
  /** Token ids; with `special`, those that the tokenizer puts around a text as well. */
  encode(text: string, special: boolean): number[];
  decode(ids: readonly number[]): string;
  /** The token that begins every text, where there is one. */
  readonly bos: number | null;
  readonly eos: number | null;
  /** What fills up shorter rows: the padding token, else the end token, else 0. */
  readonly pad: number;
  /** A conversation as the chat template writes it; null when there is no template. */
  readonly chat: ((messages: readonly ChatMessage[], options: { readonly prompt: boolean }) => string) | null;
}

/**
 * Reads a tokenizer.
 *
 * @param path of tokenizer.json; the other files are looked for in its folder.
 * @throws LowrankError "file" when it cannot be read, "data" when it is no tokenizer, "config" when a package is missing.
 */
export async function loadTokenizer(path: string): Promise<TextTokenizer> {
  const json = await readJson(path);
  if (json === null) throw new LowrankError("file", `${path}: not found; name the model's tokenizer.json`);
  const config = (await readJson(join(dirname(path), "tokenizer_config.json"))) ?? {};
  const { Tokenizer } = await loadPackage("@huggingface/tokenizers", "texts", () => import("@huggingface/tokenizers"));
  let tokenizer: InstanceType<typeof Tokenizer>;
  try {
    tokenizer = new Tokenizer(json, config);
  } catch (error) {
    throw new LowrankError("data", `${path}: is no tokenizer that can be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  const idOf = (name: string): number | null => {
    const text = contentOf(config[name]);
    return text === null ? null : (tokenizer.token_to_id(text) ?? null);
  };
  const eos = idOf("eos_token");
  const around = tokenizer.encode("", { add_special_tokens: true }).ids;
  const first = around[0];
  return {
    encode: (text, special) => tokenizer.encode(text, { add_special_tokens: special }).ids,
    decode: (ids) => tokenizer.decode([...ids], { skip_special_tokens: true }),
    bos: first === undefined || first === eos ? null : first,
    eos,
    pad: idOf("pad_token") ?? eos ?? 0,
    chat: await chatTemplate(path, config),
  };
}

type Config = Readonly<Record<string, unknown>>;

async function chatTemplate(path: string, config: Config): Promise<TextTokenizer["chat"]> {
  const beside = await readText(join(dirname(path), "chat_template.jinja"));
  const source = beside ?? templateOf(config.chat_template);
  if (source === null) return null;
  const { Template } = await loadPackage("@huggingface/jinja", "chat templates", () => import("@huggingface/jinja"));
  const tokens = Object.fromEntries(
    ["bos_token", "eos_token", "pad_token", "unk_token"].map((name) => [name, contentOf(config[name]) ?? ""]),
  );
  let template: InstanceType<typeof Template>;
  try {
    template = new Template(source);
  } catch (error) {
    throw new LowrankError("data", `${path}: its chat template cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return (messages, { prompt }) => template.render({ ...tokens, messages, add_generation_prompt: prompt });
}

/** One template, or the one called "default" of several. */
function templateOf(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  const named = value as readonly { readonly name?: unknown; readonly template?: unknown }[];
  const found = named.find(({ name }) => name === "default") ?? named[0];
  return typeof found?.template === "string" ? found.template : null;
}

/** A special token is text, or an object that has it as `content`. */
function contentOf(token: unknown): string | null {
  if (typeof token === "string") return token;
  const content = (token as { readonly content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : null;
}

async function readJson(path: string): Promise<Record<string, unknown> | null> {
  const text = await readText(path);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (error) {
    throw new LowrankError("data", `${path}: expected JSON: ${(error as Error).message}`, { cause: error });
  }
  throw new LowrankError("data", `${path}: expected a JSON object`);
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new LowrankError("file", `${path}: ${systemFault(error)}`, { cause: error });
  }
}
