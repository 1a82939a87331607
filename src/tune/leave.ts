// What a run leaves for people to look at: TensorBoard's event files while it goes on, and at its end what was read how on the
// evaluation data (evaluation.json), and report.html.
import type { Adapter } from "../lora/config.ts";
import { withWeights } from "../lora/full.ts";
import { renderRunReport } from "../runs/report/run-report.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import { readRun } from "../runs/run-record.ts";
import { openEvents, type Scalars } from "../runs/tensorboard.ts";
import type { Tensor } from "../tensor.ts";
import type { DataSource } from "../train/data-source.ts";
import type { Trained, TrainedWeights } from "../train/train.ts";
import { evaluateAdapters, type NumberedBatch } from "./evaluate.ts";
import type { Prepared } from "./prepare.ts";

const evaluationFile = "evaluation.json";

/** Told of steps and evaluations; writes nothing where event files were not asked for. */
export interface Watcher {
  step(step: number, scalars: Scalars): void;
  evaluation(step: number, scalars: Scalars): void;
  /** Writes what is collected: before a checkpoint that counts it as done. */
  flush(): void;
  close(): void;
}

/** Event files in the run's folder, if its options ask for them. */
export function openWatcher({ options }: Pick<Prepared, "options">, folder: RunFolder): Watcher {
  if (!options.tensorboard) return { step() {}, evaluation() {}, flush() {}, close() {} };
  const events = openEvents(folder.path);
  folder.note(events.name);
  return {
    step: (step, scalars) => events.append(step, scalars),
    evaluation(step, scalars) {
      events.append(step, scalars);
      events.flush();
    },
    flush: () => events.flush(),
    close: () => events.close(),
  };
}

/** Writes evaluation.json for classifiers that have data to evaluate on: of the best, where there is one, else of the last. */
export async function writeEvaluation(
  folder: RunFolder,
  { data, loss, session, model }: Prepared,
  trained: Trained | TrainedWeights,
): Promise<void> {
  if (data.target === null || data.loss !== "cross_entropy") return;
  // A run that is stopped leaves it to the one that goes on, but names it where that one would: markers are the same then.
  folder.note(evaluationFile);
  if (trained.history.stopped) return;
  const batches = onePass(data.target);
  const found =
    "adapter" in trained
      ? await evaluateAdapters(model, [{ name: "adapter", adapter: usedOf(trained) }], batches, { ...session, loss })
      : await evaluateAdapters(withWeights(model, weightsOf(trained)), [], batches, { ...session, loss });
  await folder.writeJson(evaluationFile, found);
}

function usedOf({ best, averaged, adapter }: Trained): Adapter {
  return best?.adapter ?? averaged ?? adapter;
}

function weightsOf({ best, averaged, tensors }: TrainedWeights): ReadonlyMap<string, Tensor> {
  return best?.tensors ?? averaged ?? tensors;
}

/** Writes report.html from what is in the folder. */
export async function writeReport(folder: RunFolder): Promise<void> {
  await folder.write("report.html", renderRunReport(await readRun(folder.path)));
}

/** The batches of one pass, from its beginning, with the numbers of their rows where the source has them. */
export async function* onePass(source: DataSource): AsyncGenerator<NumberedBatch> {
  for await (const given of source.batches({ epoch: 0, index: 0 })) {
    yield "rows" in given ? { ...given.batch, rows: given.rows as readonly number[] } : given.batch;
    if (given.next.epoch > 0) return;
  }
}
