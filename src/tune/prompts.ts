// What a decoder goes on from: prompts that were given, or rows of data with a `prompt`, a `text`, or the `messages` of a chat.
// Tokens are those that training would have put before the answer (src/data/text.ts).
import { type Dataset, type NamedRow, openDataset } from "../data/dataset.ts";
import { show } from "../data/fields.ts";
import type { Cell } from "../data/table.ts";
import type { ChatMessage, TextTokenizer } from "../data/tokenizer.ts";
import { LowrankError } from "../errors.ts";
import { parseMap } from "./eval-data.ts";
import type { RunOptions } from "./option-table.ts";

export interface Prompt {
  /** As the model reads it: of a chat, with what the template writes around the turns. */
  readonly text: string;
  readonly ids: readonly number[];
}

/**
 * A text as a prompt; with `chat`, as what a user says in a chat.
 *
 * @throws LowrankError "config" for a chat without a template.
 */
export function promptOf(text: string, tokenizer: TextTokenizer, chat: boolean): Prompt {
  if (chat) return chatPrompt([{ role: "user", content: text }], tokenizer);
  const { bos } = tokenizer;
  return { text, ids: [...(bos === null ? [] : [bos]), ...tokenizer.encode(text, false)] };
}

/** The turns up to the assistant's last one, and what stands before its answer. */
function chatPrompt(messages: readonly ChatMessage[], tokenizer: TextTokenizer): Prompt {
  if (tokenizer.chat === null) {
    throw new LowrankError("config", "chat: the tokenizer has no chat template (tokenizer_config.json)");
  }
  const asked = messages.at(-1)?.role === "assistant" ? messages.slice(0, -1) : messages;
  const text = tokenizer.chat(asked, { prompt: true });
  return { text, ids: tokenizer.encode(text, false) };
}

/**
 * The prompts of the rows of data. All rows are looked at before the first is given.
 *
 * @throws LowrankError "data" with rows that are none, by file and line, unless `onBadRow` leaves them out.
 */
export async function* promptsOf(
  options: RunOptions,
  tokenizer: TextTokenizer,
  warn: (dataset: Dataset) => void,
): AsyncGenerator<Prompt> {
  const { data, onBadRow, filter, limit, chat } = options;
  const opened = await openDataset(data!, { onBadRow });
  try {
    warn(opened);
    const map = parseMap(options.map ?? []);
    const named = ["messages", "prompt", "text"].map((kind) => ({ kind, column: map[kind] ?? kind }));
    const found = named.find(({ column }) => opened.columns.some(({ name }) => name === column));
    if (found === undefined) {
      throw new LowrankError(
        "data",
        `${data!.join(", ")}: expected a column prompt, text or messages, got none of them`,
      );
    }
    const { kind, column } = found;
    const filtered = filter === null ? opened : await opened.filter(...filter);
    const usable = await filtered.check(({ [column]: cell }) => faultOf(kind, cell!));
    warn(usable);
    for await (const row of (limit === null ? usable : usable.limit(limit)).rows()) {
      yield kind === "messages"
        ? chatPrompt(messagesOf(row, column), tokenizer)
        : promptOf(String(row[column]), tokenizer, chat);
    }
  } finally {
    await opened.close();
  }
}

function messagesOf(row: NamedRow, column: string): readonly ChatMessage[] {
  return row[column] as unknown as readonly ChatMessage[];
}

function faultOf(kind: string, cell: Cell): string | null {
  if (kind !== "messages") {
    const isText = (typeof cell === "string" && cell !== "") || typeof cell === "number";
    return isText ? null : `${kind}: expected a text, got ${show(cell)}`;
  }
  const messages = (Array.isArray(cell) ? cell : []) as readonly (Partial<ChatMessage> | null)[];
  const areTurns = messages.every((turn) => typeof turn?.role === "string" && turn.content !== undefined);
  return messages.length > 0 && areTurns ? null : `messages: expected a list of { role, content }, got ${show(cell)}`;
}
