// `lowrank eval` from the options to the folder that it leaves: config.json, env.json with the data's hashes, summary.json with
// what was found, and report.html.
import { basename } from "node:path";
import { LowrankError } from "../errors.ts";
import type { Model } from "../onnx/model.ts";
import { loadAdapter } from "../runs/adapter-files.ts";
import { environment } from "../runs/environment.ts";
import { loadModel } from "../runs/model-file.ts";
import { renderRunReport } from "../runs/report/run-report.ts";
import { createRunFolder } from "../runs/run-folder.ts";
import { readRun } from "../runs/run-record.ts";
import { type EvalRows, labelsBeside, openEvalRows } from "./eval-data.ts";
import { formatEvaluation } from "./eval-table.ts";
import { type AdapterEvaluation, evaluateAdapters, type NamedAdapter } from "./evaluate.ts";
import { hashFiles } from "./hash-files.ts";
import { chooseLoss, makeLoss } from "./method.ts";
import { optionsOf, type RunOptions } from "./option-table.ts";
import type { RunContext } from "./run.ts";
import { runSession } from "./run-session.ts";
import { leftOut, silentVoice } from "./voice.ts";

/** summary.json of an evaluation. */
export interface EvalSummary extends AdapterEvaluation {
  readonly version: 1;
  readonly verb: "eval";
  readonly complete: true;
  readonly started: string;
  readonly model: string;
  readonly data: { readonly rows: number; readonly skipped: number; readonly labels: readonly string[] | null };
  /** As in config.json. */
  readonly settings: Readonly<Record<string, unknown>>;
  readonly seconds: number;
}

export interface EvalResult {
  readonly folder: string;
  readonly summary: EvalSummary;
}

/**
 * Measures a model, and each adapter on it, on data.
 *
 * @throws LowrankError "config", "model", "adapter" or "data" with all that is wrong; nothing is written then.
 * @example
 * const { summary } = await runEval(resolveOptions("eval", { model: "model.onnx", data: ["test.csv"], adapter: ["tuned"] }));
 */
export async function runEval(
  options: RunOptions,
  { voice = silentVoice, signal = new AbortController().signal }: RunContext = {},
): Promise<EvalResult> {
  const started = new Date();
  const begun = performance.now();
  const session = await runSession(options, (text) => voice.say(text));
  const { model, adapters, names } = await openSubject(options);
  const rows = await openEvalRows({ model, options, names, labelled: true });
  try {
    tellSkipped(rows, (text) => voice.warn(text));
    const progress = voice.progress("evaluating", rows.rows, "rows");
    const found = await evaluateAdapters(model, adapters, rows.batches(), {
      ...session,
      loss: makeLoss(chooseLoss(options, rows.kind ?? "numbers"), options),
      signal,
      onBatch: (examples) => progress.update(examples),
    }).finally(() => progress.clear());
    const { labels, skipped } = rows;
    const summary: EvalSummary = {
      version: 1,
      verb: "eval",
      complete: true,
      started: started.toISOString(),
      model: options.model!,
      data: { rows: rows.rows, skipped: skipped.count, labels },
      ...found,
      settings: configOf(options),
      seconds: (performance.now() - begun) / 1000,
    };
    const folder = await save(options, summary, started);
    voice.say(formatEvaluation(found, labels));
    voice.say(`\nThe results are in ${folder}.`);
    return { folder, summary };
  } finally {
    await rows.close();
  }
}

/** The model, and the adapters with the names of their classes. */
export async function openSubject(
  options: RunOptions,
): Promise<{ model: Model; adapters: readonly NamedAdapter[]; names: readonly string[] | null }> {
  if (options.model === null) throw new LowrankError("config", "expected a model, got none");
  if (options.data === null) throw new LowrankError("config", "--data: expected a file or folder, got none");
  const model = await loadModel(options.model);
  const paths = options.adapter ?? [];
  const short = paths.map((path) => basename(path));
  const areTold = new Set(short).size === short.length;
  const adapters: NamedAdapter[] = [];
  let names: readonly string[] | null = null;
  for (const [at, path] of paths.entries()) {
    adapters.push({ name: areTold ? short[at]! : path, adapter: await loadAdapter(path) });
    names ??= await labelsBeside(path);
  }
  return { model, adapters, names };
}

/** Rows that were left out are never passed over in silence. */
export function tellSkipped({ skipped }: Pick<EvalRows, "skipped">, warn: (text: string) => void): void {
  if (skipped.count === 0) return;
  warn(leftOut(skipped));
}

/** The options of the verb: a file that `--config` takes. */
function configOf(options: RunOptions): Readonly<Record<string, unknown>> {
  return Object.fromEntries(optionsOf("eval").map(([name]) => [name, options[name]]));
}

async function save(options: RunOptions, summary: EvalSummary, started: Date): Promise<string> {
  const folder = await createRunFolder(options.out ?? undefined, { prefix: "eval", now: started });
  try {
    await folder.writeJson("config.json", summary.settings);
    await folder.writeJson("env.json", {
      verb: "eval",
      ...environment({ threads: options.threads ?? 0, seed: options.seed, data: await hashFiles(options.data!) }),
      model: await hashFiles([options.model!]),
    });
    await folder.writeJson("summary.json", summary);
    await folder.write("report.html", renderRunReport(await readRun(folder.path)));
  } finally {
    folder.metrics.close();
  }
  return folder.path;
}
