// The study from the data to the report: runs each network, and leaves a folder that tells it all.
import { join } from "node:path";
import type { ImageSet } from "../data/idx.ts";
import { loadMnist, type Mnist } from "../data/mnist.ts";
import { LowrankError } from "../errors.ts";
import { createRandom } from "../random.ts";
import { environment } from "../runs/environment.ts";
import { createRunFolder, type RunFolder } from "../runs/run-folder.ts";
import { checkDevice } from "../runtime/session.ts";
import { range } from "./batches.ts";
import type { StudyContext } from "./context.ts";
import { runHead } from "./head.ts";
import * as tell from "./narrate.ts";
import { checkOptions, headsOf, type StudyOptions, studyDefaults } from "./options.ts";
import { renderReport } from "./report/report.ts";
import type { Evaluation, Head, StudyResult } from "./result.ts";
import { silentVoice, type Voice } from "./voice.ts";

export interface StudyRun {
  /** Where the run's files are. */
  readonly folder: string;
  readonly result: StudyResult;
}

export interface StudyEnvironment {
  /** The folder with MNIST; see loadMnist for where else it is looked for. */
  readonly data?: string;
  /** The run folder; default runs/study-<time>. */
  readonly out?: string;
  readonly voice?: Voice;
  /** Stops between two steps: what is complete is saved, and the error says where. */
  readonly signal?: AbortSignal;
}

/**
 * The study of STUDY.md: base model, LoRA fine-tune on its worst digit, proofs and comparisons, for the documented network
 * and for the one with a linear head.
 *
 * @throws LowrankError "config", "data" or "file" before anything is trained; "aborted" when it was stopped.
 * @example const { result, folder } = await runStudy({ head: "linear", seed: 1 });
 */
export async function runStudy(
  options: Partial<StudyOptions> = {},
  surroundings: StudyEnvironment = {},
): Promise<StudyRun> {
  const asked: StudyOptions = { ...studyDefaults, ...options };
  checkOptions(asked);
  const { voice = silentVoice, signal = new AbortController().signal } = surroundings;
  const started = new Date();
  const begun = performance.now();
  const { device, reason } = await checkDevice({ device: asked.device, threads: asked.threads });
  const resolved: StudyOptions = { ...asked, device };
  const mnist = limited(await findData(surroundings, voice, signal), resolved);
  const run = await createRunFolder(surroundings.out, { prefix: "study", now: started });
  const sha256 = Object.fromEntries(
    Object.entries(mnist.source.sha256).map(([path, hash]) => [path.split("/").at(-1)!, hash]),
  );
  await run.writeJson("config.json", resolved);
  await run.writeJson("env.json", environment({ threads: resolved.threads, seed: resolved.seed, data: sha256 }));
  tell.introduction(voice, resolved, mnist.source, mnist.train.count, mnist.test.count);
  if (asked.device === "auto") voice.say(`Device auto: ${device} (${reason}).`);

  const result: StudyResult = {
    summary: {
      version: 1,
      complete: false,
      started: started.toISOString(),
      data: { source: mnist.source.description, train: mnist.train.count, test: mnist.test.count, sha256 },
      settings: resolved,
      heads: {},
      seconds: 0,
    },
    details: {},
  };
  const finish = async (): Promise<void> => {
    result.summary.seconds = (performance.now() - begun) / 1000;
    run.metrics.flush();
    await run.writeJson("summary.json", result.summary);
    await run.write("report.html", renderReport(result));
  };
  try {
    await runHeads(headsOf(resolved), contextOf(resolved, mnist, run, voice, signal), result);
    result.summary.complete = true;
    await finish();
  } catch (error) {
    // A network that is finished is told of, whatever became of the next.
    if (Object.keys(result.summary.heads).length > 0) await finish();
    if (!signal.aborted) throw error;
    throw new LowrankError("aborted", `stopped on request: what was complete is in ${run.path}`, { cause: error });
  } finally {
    run.metrics.close();
  }
  tell.conclusion(voice, result.summary, run.path);
  return { folder: run.path, result };
}

/** The last network's files have plain names; those of one before it carry its name. */
async function runHeads(heads: readonly Head[], context: StudyContext, result: StudyResult): Promise<void> {
  for (const [index, head] of heads.entries()) {
    const { summary, detail } = await runHead(head, index === heads.length - 1 ? "" : `${head}-`, context);
    result.summary.heads[head] = summary;
    result.details[head] = detail;
  }
}

function contextOf(
  options: StudyOptions,
  { train, test }: Mnist,
  run: RunFolder,
  voice: Voice,
  signal: AbortSignal,
): StudyContext {
  return {
    options,
    train,
    test,
    run,
    voice,
    signal,
    session: { device: options.device, threads: options.threads },
    pathOf: (file) => join(run.path, file),
    recordEvaluation: (phase, { accuracy, wrong }: Evaluation) =>
      run.metrics.append({ kind: "evaluation", phase, accuracy, wrong }),
  };
}

async function findData({ data }: StudyEnvironment, voice: Voice, signal: AbortSignal): Promise<Mnist> {
  let bar: { file: string; progress: ReturnType<Voice["progress"]> } | undefined;
  try {
    return await loadMnist({
      ...(data !== undefined && { directory: data }),
      signal,
      onProgress: (event) => {
        if (event.kind === "note") {
          bar?.progress.clear();
          voice.warn(event.message);
          return;
        }
        if (bar?.file !== event.file) {
          bar?.progress.done();
          bar = { file: event.file, progress: voice.progress(`downloading ${event.file}`, event.total ?? 0, "bytes") };
        }
        bar.progress.update(event.received);
      },
    });
  } finally {
    bar?.progress.done();
  }
}

/** A random choice of images where fewer are asked for: sets may be sorted by digit. */
function limited(mnist: Mnist, { limit, seed }: StudyOptions): Mnist {
  if (limit === null) return mnist;
  return {
    ...mnist,
    train: sample(mnist.train, limit, seed, "limit train"),
    test: sample(mnist.test, limit, seed, "limit test"),
  };
}

function sample(set: ImageSet, limit: number, seed: number, stream: string): ImageSet {
  if (limit >= set.count) return set;
  const order = range(set.count);
  createRandom(seed, stream).shuffle(order);
  const chosen = order.subarray(0, limit);
  const pixels = set.images.length / set.count;
  const images = new Uint8Array(limit * pixels);
  chosen.forEach((index, row) => {
    images.set(set.images.subarray(index * pixels, (index + 1) * pixels), row * pixels);
  });
  return { images, labels: Uint8Array.from(chosen, (index) => set.labels[index]!), count: limit };
}
