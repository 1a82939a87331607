// Texts as batches of token ids: `text`, `prompt` and `completion`, or chat `messages`. A prompt is tokenized apart from what
// follows it, as it will be when the model is asked; its labels are -100 unless told otherwise. Shuffled texts are sorted by
// length within groups of 32 batches, so that little is padded (transformers' group_by_length). Packing joins whole
// texts to rows of at most maxLength tokens, first fit decreasing (Johnson 1973): a plain concatenation with end tokens, in
// which a text's attention can reach those before it in its row; position_ids, where the model takes them, begin anew.
import { throwFaults } from "../errors.ts";
import { createRandom } from "../random.ts";
import { elementBytes, fromBytes, type Tensor, type TensorType, tensor } from "../tensor.ts";
import type { ExampleOptions } from "./examples.ts";
import { labelColumn } from "./examples.ts";
import { type InputShape, type Numbers, show } from "./fields.ts";
import { type LabelWriter, labelWriter } from "./labels.ts";
import type { Assembled, Assembler, Encoder, SourceBatch } from "./source.ts";
import type { Cell, Column, Row } from "./table.ts";
import type { ChatMessage, TextTokenizer } from "./tokenizer.ts";

export interface TextOptions {
  readonly tokenizer: TextTokenizer;
  /** Tokens of a text (or of a packed row); longer ones are cut. Default 512. */
  readonly maxLength?: number;
  /** Join short texts to rows of the full length. Default false. */
  readonly packing?: boolean;
  /** Count the prompt's tokens in the loss as well. Default false. */
  readonly trainOnPrompt?: boolean;
  /** "causal": the labels are the tokens; "classify": they are in a column. Default: "classify" when there is a column of labels. */
  readonly task?: "causal" | "classify";
}

/** Label of tokens that count for nothing. */
const ignored = -100;

/** Batches whose texts are sorted or packed together. */
const groupBatches = 32;

/** A text's tokens; labels are given for causal models. */
interface Encoded {
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

/**
 * Plans how rows of text become batches.
 *
 * @throws LowrankError "data" with everything that does not fit.
 */
export function textEncoder(
  columns: readonly Column[],
  sample: Row,
  options: ExampleOptions & { readonly text: TextOptions; readonly shuffle: boolean; readonly seed: number },
): Encoder {
  const { text, map, inputs } = options;
  const { tokenizer, maxLength = 512, packing = false } = text;
  const faults: string[] = [];
  const reader = rowReader(columns, sample, options, faults);
  const label = labelColumn(columns, map, faults);
  const task = text.task ?? (label === null ? "causal" : "classify");
  const writer =
    task === "classify" ? labelWriter(label, columns, sample, { ...options.labels, tableNames: null }) : null;
  if (typeof writer === "string") faults.push(writer);
  if (packing && task === "classify") faults.push("packing: joins texts of causal models only");
  if (!(Number.isSafeInteger(maxLength) && maxLength >= 2))
    faults.push(`maxLength: expected 2 or more, got ${maxLength}`);
  const wanted = inputs.filter(({ name }) => name in inputValues);
  if (!wanted.some(({ name }) => name === "input_ids")) faults.push("the model has no input input_ids");
  throwFaults("data", "data: texts do not fit the model", faults);
  const labels = writer as LabelWriter | null;
  const encode = (row: Row): Encoded =>
    labels === null ? causal(reader(row), text, maxLength) : classified(reader(row), tokenizer, maxLength);
  const plan: Plan = { encode, labels, inputs: wanted, pad: tokenizer.pad };
  const sorted = options.shuffle || packing;
  return {
    padding: Object.fromEntries([["labels", ignored], ...wanted.map(({ name }) => [name, padOf(name, tokenizer.pad)])]),
    groupBatches: sorted ? groupBatches : 1,
    regular: !packing,
    labels: () => labels?.names() ?? null,
    check: (row) => checkRow(row, reader, labels, text, maxLength),
    begin: (batchSize) =>
      packing
        ? packer(plan, batchSize, maxLength, options.seed)
        : grouper(plan, batchSize, sorted ? options.seed : null),
  };
}

/** Parts of a text in their order, and whether each counts in the loss. */
type Parts = readonly { readonly text: string; readonly counts: boolean }[];

interface ReadText {
  readonly parts: Parts;
  /** Whether the text brings its own special tokens (chat templates write them). */
  readonly complete: boolean;
}

/** A message that is thrown for what is wrong with a row. */
class RowFault extends Error {}

function rowReader(
  columns: readonly Column[],
  sample: Row,
  { text: { tokenizer }, map = {} }: ExampleOptions & { readonly text: TextOptions },
  faults: string[],
): (row: Row) => ReadText {
  const names = columns.map(({ name }) => name);
  const place = (name: string): number => names.indexOf(map[name] ?? name);
  const [messages, prompt, completion, text] = ["messages", "prompt", "completion", "text"].map(place) as [
    number,
    number,
    number,
    number,
  ];
  const present = (column: number): boolean => column >= 0 && sample[column] !== null;
  if (present(messages)) {
    if (tokenizer.chat === null) faults.push("messages: the tokenizer has no chat template (tokenizer_config.json)");
    return (row) => ({ parts: chatParts(row[messages]!, tokenizer), complete: true });
  }
  if (present(prompt) && present(completion)) {
    return (row) => ({
      parts: [
        { text: textOf(row[prompt]!, names[prompt]!), counts: false },
        { text: textOf(row[completion]!, names[completion]!), counts: true },
      ],
      complete: false,
    });
  }
  if (text < 0)
    faults.push(
      `expected a column text, columns prompt and completion, or messages, got ${names.slice(0, 10).join(", ")}`,
    );
  return (row) => ({ parts: [{ text: textOf(row[text]!, names[text]!), counts: true }], complete: false });
}

function textOf(cell: Cell, name: string): string {
  // Numbers that stand for themselves, in a CSV file of numbers.
  if (typeof cell === "number") return String(cell);
  if (typeof cell !== "string" || cell === "") throw new RowFault(`${name}: expected a text, got ${show(cell)}`);
  return cell;
}

/** The assistant's turns count; what leads to them does not. */
function chatParts(cell: Cell, { chat }: TextTokenizer): Parts {
  const messages = chatMessages(cell);
  const parts: { text: string; counts: boolean }[] = [];
  let written = "";
  const add = (whole: string, counts: boolean): void => {
    if (!whole.startsWith(written)) {
      throw new RowFault("messages: the chat template writes earlier turns anew when later ones come; use text");
    }
    if (whole.length > written.length) parts.push({ text: whole.slice(written.length), counts });
    written = whole;
  };
  try {
    for (const [index, { role }] of messages.entries()) {
      if (role !== "assistant") continue;
      add(chat!(messages.slice(0, index), { prompt: true }), false);
      add(chat!(messages.slice(0, index + 1), { prompt: false }), true);
    }
    add(chat!(messages, { prompt: false }), false);
  } catch (error) {
    throw error instanceof RowFault
      ? error
      : new RowFault(`messages: the chat template refuses them: ${(error as Error).message}`);
  }
  return parts;
}

function chatMessages(cell: Cell): ChatMessage[] {
  const messages = (Array.isArray(cell) ? cell : []) as readonly Partial<ChatMessage>[];
  const isMessage = (message: Partial<ChatMessage> | null): boolean =>
    typeof message?.role === "string" && message.content !== undefined;
  if (messages.length === 0 || !messages.every(isMessage)) {
    throw new RowFault(`messages: expected a list of { role, content }, got ${show(cell)}`);
  }
  if (!messages.some(({ role }) => role === "assistant")) {
    throw new RowFault('messages: expected a turn of the "assistant" to learn from, got none');
  }
  return messages as ChatMessage[];
}

/** The tokens of a text, its end token, and its labels. */
function causal(
  { parts, complete }: ReadText,
  { tokenizer, trainOnPrompt = false }: TextOptions,
  maxLength: number,
): Encoded {
  const ids: number[] = [];
  const labels: number[] = [];
  const add = (id: number, counts: boolean): void => {
    ids.push(id);
    labels.push(counts || trainOnPrompt ? id : ignored);
  };
  if (!complete && tokenizer.bos !== null) add(tokenizer.bos, parts[0]!.counts);
  for (const { text, counts } of parts) for (const id of tokenizer.encode(text, false)) add(id, counts);
  if (!complete && tokenizer.eos !== null && ids.at(-1) !== tokenizer.eos) add(tokenizer.eos, true);
  return { ids: ids.slice(0, maxLength), labels: labels.slice(0, maxLength) };
}

/** The tokens of a text with the special ones around it, which stay when it is cut. */
function classified({ parts }: ReadText, tokenizer: TextTokenizer, maxLength: number): Encoded {
  const text = parts.map((part) => part.text).join("");
  const whole = tokenizer.encode(text, true);
  if (whole.length <= maxLength) return { ids: whole, labels: [] };
  const plain = tokenizer.encode(text, false);
  const around = whole.length - plain.length;
  let before = 0;
  while (before < around && whole[before] !== plain[0]) before++;
  const kept = Math.max(0, maxLength - around);
  return {
    ids: [...whole.slice(0, before), ...plain.slice(0, kept), ...whole.slice(before + plain.length)],
    labels: [],
  };
}

/** What is wrong with a row. Only texts whose completion may be cut off are tokenized for it: the whole file would take long. */
function checkRow(
  row: Row,
  reader: (row: Row) => ReadText,
  labels: LabelWriter | null,
  options: TextOptions,
  maxLength: number,
): string | null {
  try {
    const read = reader(row);
    if (labels !== null) return labels.check(row);
    const firstCounted = read.parts.findIndex(({ counts }) => counts || options.trainOnPrompt);
    const before = read.parts.slice(0, firstCounted).reduce((bytes, part) => bytes + Buffer.byteLength(part.text), 1);
    // A token is a byte or more. The first label of a row is never predicted.
    if (before + 1 < maxLength) return null;
    const some = causal(read, options, maxLength).labels.slice(1);
    return some.some((label) => label !== ignored)
      ? null
      : `the prompt alone has ${maxLength} tokens or more (maxLength): nothing to learn is left`;
  } catch (error) {
    if (error instanceof RowFault) return error.message;
    throw error;
  }
}

interface Plan {
  readonly encode: (row: Row) => Encoded;
  readonly labels: LabelWriter | null;
  readonly inputs: readonly InputShape[];
  readonly pad: number;
}

/** A row of a batch: one text, or several when packed. */
type TextRow = readonly Encoded[];

/** Texts sorted by length, the batches then in random order; without a seed as they come. */
function grouper(plan: Plan, batchSize: number, seed: number | null): Assembler {
  return (rows, numbers, random) => {
    const encoded = rows.map(plan.encode);
    const order = [...rows.keys()];
    if (seed !== null) order.sort((a, b) => encoded[a]!.ids.length - encoded[b]!.ids.length || a - b);
    const batches: Assembled[] = [];
    for (let at = 0; at < order.length; at += batchSize) {
      const chosen = order.slice(at, at + batchSize);
      const texts = chosen.map((row) => [encoded[row]!]);
      const originals = chosen.map((row) => rows[row]!);
      batches.push({
        examples: chosen.length,
        rows: chosen.map((row) => numbers[row]!),
        make: () => Promise.resolve(makeBatch(plan, texts, originals)),
      });
    }
    if (seed !== null) createRandom(seed, `texts ${random}`).shuffle(batches);
    return Promise.resolve(batches);
  };
}

/** Whole texts joined to rows of at most `maxLength` tokens. */
function packer(plan: Plan, batchSize: number, maxLength: number, seed: number): Assembler {
  return (rows, numbers, random) => {
    const encoded = rows.map(plan.encode);
    const order = [...rows.keys()].sort((a, b) => encoded[b]!.ids.length - encoded[a]!.ids.length || a - b);
    const bins: { left: number; rows: number[] }[] = [];
    for (const row of order) {
      const { length } = encoded[row]!.ids;
      const open = bins.find(({ left }) => left >= length);
      const bin = open ?? { left: maxLength, rows: [] };
      if (open === undefined) bins.push(bin);
      bin.left -= length;
      bin.rows.push(row);
    }
    createRandom(seed, `texts ${random}`).shuffle(bins);
    const batches: Assembled[] = [];
    for (let at = 0; at < bins.length; at += batchSize) {
      const chosen = bins.slice(at, at + batchSize).map((bin) => bin.rows);
      const texts = chosen.map((bin) => bin.map((row) => encoded[row]!));
      batches.push({
        examples: chosen.length,
        rows: chosen.flat().map((row) => numbers[row]!),
        make: () => Promise.resolve(makeBatch(plan, texts, [])),
      });
    }
    return Promise.resolve(batches);
  };
}

/** What each input of a text model gets, token by token. */
const inputValues: Readonly<Record<string, (id: number, position: number) => number>> = {
  input_ids: (id) => id,
  attention_mask: () => 1,
  token_type_ids: () => 0,
  position_ids: (_, position) => position,
};

function padOf(name: string, pad: number): number {
  return name === "input_ids" ? pad : 0;
}

function makeBatch({ labels, inputs, pad }: Plan, texts: readonly TextRow[], rows: readonly Row[]): SourceBatch {
  const lengths = texts.map((row) => row.reduce((sum, { ids }) => sum + ids.length, 0));
  const length = Math.max(1, ...lengths);
  const dims = [texts.length, length];
  const filled = inputs.map(({ name, type }) => {
    const value = inputValues[name]!;
    return [name, fill(type, dims, padOf(name, pad), texts, ({ ids }, at) => value(ids[at]!, at))] as const;
  });
  if (labels === null) {
    // Nothing is predicted across the border of two texts: the first token of a text has no label.
    const label = ({ labels: own }: Encoded, at: number): number => (at === 0 ? ignored : own[at]!);
    return { inputs: Object.fromEntries(filled), labels: fill("int64", dims, ignored, texts, label) };
  }
  const target = labels.target(rows.length);
  for (const [at, row] of rows.entries()) labels.write(row, target, at);
  return { inputs: Object.fromEntries(filled), labels: labels.tensor(target, rows.length) };
}

function fill(
  type: TensorType,
  dims: readonly number[], // [rows, tokens]
  pad: number,
  texts: readonly TextRow[],
  value: (text: Encoded, at: number) => number,
): Tensor {
  const [rows, length] = dims as [number, number];
  const wide = type === "int64" || type === "uint64";
  const data: Numbers = fromBytes(type, new Uint8Array(rows * length * elementBytes(type)));
  const put = (at: number, number: number): void => {
    data[at] = wide ? BigInt(number) : number;
  };
  for (const [row, parts] of texts.entries()) {
    let at = row * length;
    for (const part of parts) for (let token = 0; token < part.ids.length; token++) put(at++, value(part, token));
    while (at < (row + 1) * length) put(at++, pad);
  }
  return tensor<TensorType>(type, dims, data as BigInt64Array);
}
