// `lowrank predict`: a line of JSON for each row of the data, or text that goes on from a prompt.
import { loadTokenizer } from "../data/tokenizer.ts";
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Model } from "../onnx/model.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { loadModel } from "../runs/model-file.ts";
import { openDecoder } from "../train/generate.ts";
import { type EvalBatch, lossBeside, openEvalRows, tokenizerPath } from "./eval-data.ts";
import { outputShape } from "./method.ts";
import type { RunOptions } from "./option-table.ts";
import { predict } from "./predict.ts";
import { promptOf, promptsOf } from "./prompts.ts";
import { openSubject, tellSkipped } from "./run-eval.ts";
import { runSession } from "./run-session.ts";
import { textOf } from "./text-stream.ts";

export interface PredictContext {
  /** Text for the answer: lines of JSON, or pieces of generated text. */
  readonly write: (text: string) => void;
  readonly warn: (text: string) => void;
  readonly signal?: AbortSignal;
  /** Generated text as one JSON object for each prompt instead of as it comes. */
  readonly json?: boolean;
}

/**
 * Answers each row, or goes on from each prompt.
 *
 * @throws LowrankError "config" without data and prompt, or with several adapters; and as reading and running do.
 * @example await runPredict(resolveOptions("predict", { model: "model.onnx", data: ["new.csv"] }), { write, warn });
 */
export async function runPredict(options: RunOptions, context: PredictContext): Promise<void> {
  const { adapter } = options;
  if (adapter !== null && adapter.length > 1) {
    throw new LowrankError("config", `--adapter: expected one, got ${adapter.length}; eval compares several`);
  }
  if (options.prompt !== null && options.data !== null) {
    throw new LowrankError("config", "predict: expected --data or --prompt, got both");
  }
  if (options.prompt !== null) return generateAll(options, context);
  if (options.data === null) throw new LowrankError("config", "predict: expected --data or --prompt, got neither");
  if (options.model === null) throw new LowrankError("config", "expected a model, got none");
  const model = await loadModel(options.model);
  if (isDecoder(model, options)) return generateAll(options, context);
  return predictRows(options, context);
}

/** Whether a model gives scores of the next token. */
function isDecoder(model: Model, options: RunOptions): boolean {
  return outputShape(model, options)?.length === 3 && model.graph.inputs.some(({ name }) => name === "input_ids");
}

async function predictRows(options: RunOptions, { write, warn, signal }: PredictContext): Promise<void> {
  const session = await runSession(options, warn);
  const { model, adapters, names } = await openSubject(options);
  const rows = await openEvalRows({ model, options, names, labelled: false });
  // An adapter lies in a folder of its run's, a model in the run's.
  const trained = await lossBeside(options.adapter === null ? options.model! : options.adapter[0]!);
  const threshold = options.threshold ?? (trained === "bce" ? 0.5 : null);
  try {
    tellSkipped(rows, warn);
    // The rows of the batch that is being answered, and how many came before them.
    let [current, before]: [readonly number[], number] = [[], 0];
    async function* inputs(): AsyncGenerator<EvalBatch["inputs"]> {
      for await (const batch of rows.batches()) {
        [current, before] = [batch.rows, before + current.length];
        yield batch.inputs;
      }
    }
    const answers = predict(model, inputs(), {
      ...session,
      adapter: adapters[0]?.adapter ?? null,
      labels: rows.labels,
      ...(threshold !== null && { kind: "labels", threshold }),
      ...(options.output !== null && { output: options.output }),
      ...(signal !== undefined && { signal }),
    });
    for await (const { index: counted, ...answer } of answers) {
      const index = current[counted - before]!;
      const file = rows.fileOf === null ? {} : { file: await rows.fileOf(index) };
      write(`${JSON.stringify({ index, ...file, ...answer })}\n`);
    }
  } finally {
    await rows.close();
  }
}

async function generateAll(options: RunOptions, context: PredictContext): Promise<void> {
  if (options.model === null) throw new LowrankError("config", "expected a model, got none");
  const session = await runSession(options, context.warn);
  const model = await loadModel(options.model);
  const adapter = options.adapter === null ? null : await loadAdapter(options.adapter[0]!);
  const tokenizer = await loadTokenizer(await tokenizerPath(options));
  const decoder = await openDecoder(adapter === null ? model : attachLora(model, adapter.config), {
    ...session,
    ...(options.output !== null && { output: options.output }),
  });
  const { maxNewTokens, temperature, seed, stop, chat } = options;
  const prompts =
    options.prompt?.map((text) => promptOf(text, tokenizer, chat)) ??
    promptsOf(options, tokenizer, (dataset) => tellSkipped(dataset, context.warn));
  // Answers to rows are lines; what goes on from a prompt is shown as it comes.
  const asLines = context.json === true || options.prompt === null;
  try {
    for await (const prompt of prompts) {
      const tokens = decoder.generate(prompt.ids, {
        adapter,
        maxNewTokens,
        temperature,
        seed,
        endTokens: tokenizer.eos === null ? [] : [tokenizer.eos],
        ...(context.signal !== undefined && { signal: context.signal }),
      });
      let text = "";
      for await (const piece of textOf(tokens, tokenizer.decode, stop ?? [])) {
        if (!asLines) context.write(piece);
        text += piece;
      }
      context.write(asLines ? `${JSON.stringify({ prompt: prompt.text, text })}\n` : "\n");
    }
  } finally {
    await decoder.dispose();
  }
}
