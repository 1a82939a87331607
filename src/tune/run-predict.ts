// `lowrank predict`: a line of JSON for each row of the data, or text that goes on from a prompt.
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.ts";
import { attachLora } from "../lora/attach.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { loadModel } from "../runs/model-file.ts";
import type { Tensor } from "../tensor.ts";
import { openDecoder } from "../train/generate.ts";
import type { Batch } from "../train/step.ts";
import { openEvalRows } from "./eval-data.ts";
import type { RunOptions } from "./option-table.ts";
import { predict } from "./predict.ts";
import { openSubject, sessionOf, tellSkipped } from "./run-eval.ts";
import { textOf } from "./text-stream.ts";
import { loadTokenizer } from "./tokenizer.ts";

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
  if (options.prompt !== null) return generateAll(options, options.prompt, context);
  if (options.data === null) throw new LowrankError("config", "predict: expected --data or --prompt, got neither");
  return predictRows(options, context);
}

async function predictRows(options: RunOptions, { write, warn, signal }: PredictContext): Promise<void> {
  const { model, adapters, names } = await openSubject(options);
  const rows = await openEvalRows({ model, options, names, labelled: false });
  try {
    tellSkipped(rows, warn);
    const answers = predict(model, inputsOf(rows.batches()), {
      ...sessionOf(options),
      adapter: adapters[0]?.adapter ?? null,
      labels: rows.labels,
      ...(options.output !== null && { output: options.output }),
      ...(signal !== undefined && { signal }),
    });
    for await (const answer of answers) write(`${JSON.stringify(answer)}\n`);
  } finally {
    await rows.close();
  }
}

async function* inputsOf(batches: AsyncIterable<Batch>): AsyncGenerator<Readonly<Record<string, Tensor>>> {
  for await (const { inputs } of batches) yield inputs;
}

async function generateAll(options: RunOptions, prompts: readonly string[], context: PredictContext): Promise<void> {
  if (options.model === null) throw new LowrankError("config", "expected a model, got none");
  const model = await loadModel(options.model);
  const adapter = options.adapter === null ? null : await loadAdapter(options.adapter[0]!);
  const tokenizer = await loadTokenizer(options.tokenizer ?? (await tokenizerBeside(options.model)));
  const decoder = await openDecoder(adapter === null ? model : attachLora(model, adapter.config), {
    ...sessionOf(options),
    ...(options.output !== null && { output: options.output }),
  });
  const { maxNewTokens, temperature, seed, stop } = options;
  try {
    for (const prompt of prompts) {
      const tokens = decoder.generate(tokenizer.encode(prompt), {
        adapter,
        maxNewTokens,
        temperature,
        seed,
        endTokens: tokenizer.endTokens,
        ...(context.signal !== undefined && { signal: context.signal }),
      });
      let text = "";
      for await (const piece of textOf(tokens, tokenizer.decode, stop ?? [])) {
        if (!context.json) context.write(piece);
        text += piece;
      }
      context.write(context.json ? `${JSON.stringify({ prompt, text })}\n` : "\n");
    }
  } finally {
    await decoder.dispose();
  }
}

async function tokenizerBeside(model: string): Promise<string> {
  const folder = dirname(model);
  const names = await readdir(folder).catch((): string[] => []);
  if (names.includes("tokenizer.json")) return join(folder, "tokenizer.json");
  throw new LowrankError(
    "config",
    `--tokenizer: expected a Hugging Face tokenizer.json; there is none beside ${model}, so name one`,
  );
}
