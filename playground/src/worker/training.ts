// Training an adapter on a few examples: every batch holds some of one's own and, with replay, as many digits of the base's
// training set, so that what the base can read is not forgotten. The source can be entered anywhere, so that a stopped run goes
// on from its checkpoint to the same end.
import {
  accuracy,
  attachLora,
  type BatchSource,
  type Checkpoint,
  constant,
  createRandom,
  type EvaluationProgress,
  initAdapter,
  readCheckpoint,
  type TrainOptions,
  train,
  writeAdapter,
  writeCheckpoint,
} from "lowrank";
import { pixelCount } from "../digit/bytes.ts";
import {
  type Digits,
  ownInBatch,
  type SavedProgress,
  type TrainingProgress,
  type TrainingRequest,
  type TrainingResult,
  type TrainingSettings,
} from "../protocol.ts";
import { type Base, layerPaths } from "./base.ts";
import { batchOf, symbolModel, type Where } from "./runner.ts";
import { turn } from "./turn.ts";

/** Kept digits that are asked while training: every fifth, so that asking takes no longer than learning. */
const everyFifth = 5;

/** How much of a run a reload may lose, in ms. */
const savingEvery = 1000;

/** Steps after which the browser has compiled the runtime's inner loops for speed. */
const warmingSteps = 3;

/** Trains a little on the page's own digits, for nothing: the runtime is compiled by that, which takes as long as a short run. */
export async function warmUp(base: Base, session: Where): Promise<void> {
  const adapted = attachLora(base.model, { targetModules: layerPaths });
  const batch = batchOf(picked([[base.replay, Int32Array.from({ length: 2 * ownInBatch }, (_, row) => row)]]));
  const evaluation = { sets: { kept: [batch] }, metrics: { accuracy: accuracy() } };
  await train(adapted, Array<typeof batch>(warmingSteps).fill(batch), { ...session, evaluation });
  await adapted.dispose();
}

/**
 * Trains an adapter, and tells how it goes. Throws LowrankError "config" for settings that cannot be, "data" for a loss that is
 * not finite.
 */
export async function teach(
  base: Base,
  request: TrainingRequest,
  {
    session,
    signal,
    tell,
  }: { session: Where; signal: AbortSignal; tell: (progress: TrainingProgress | SavedProgress) => void },
): Promise<TrainingResult> {
  const { settings, examples, labels } = request;
  const adapted =
    labels === null
      ? attachLora(base.model, { r: settings.r, loraAlpha: settings.alpha, targetModules: settings.targets })
      : symbolModel(base.model, labels, settings);
  const { adapter: start } = initAdapter(adapted, { seed: settings.seed });
  // Symbols have no digits to forget.
  const replay = labels === null && settings.replay > 0 ? base.replay : null;
  const kept = labels === null ? thinned(base.kept) : null;
  let checkpoint: Checkpoint | undefined;
  let told = performance.now();
  const keep = (saved: Checkpoint): void => {
    checkpoint = saved;
    if (performance.now() - told < savingEvery) return;
    told = performance.now();
    tell({ kind: "saved", step: saved.step, checkpoint: writeCheckpoint(saved) });
  };
  const reporter = new Reporter(tell);
  const evaluation: NonNullable<TrainOptions["evaluation"]> = {
    sets: { own: [batchOf(examples)], ...(kept !== null && { kept: [batchOf(kept)] }) },
    metrics: { accuracy: accuracy() },
    every: { steps: Math.min(25, Math.max(5, Math.round(settings.steps / 4))) },
    atStart: true,
  };
  const { adapter, history } = await train(adapted, mixedBatches(examples, replay, settings), {
    adapter: start,
    steps: settings.steps,
    learningRate: constant(settings.learningRate),
    seed: settings.seed,
    ...session,
    signal,
    evaluation,
    checkpoint: { every: { steps: 25 }, save: keep },
    ...(request.resume !== null && { resume: readCheckpoint(request.resume, "the stopped run") }),
    onStep: ({ step, loss }) => reporter.step(step, loss),
    onEvaluation: (progress) => reporter.evaluation(progress),
  });
  reporter.flush();
  await adapted.dispose();
  const files = Object.fromEntries(writeAdapter(labels === null ? adapter : { ...adapter, labels }));
  return {
    files,
    checkpoint: writeCheckpoint(checkpoint!),
    step: checkpoint!.step,
    seconds: history.seconds,
    stopped: history.stopped,
  };
}

/** How often the page is told of steps, in ms: more often than it can be read off, it only costs the frames. */
const tellingEvery = 100;

/** Messages some ten times a second, not one for each step. */
class Reporter {
  readonly #tell: (progress: TrainingProgress) => void;
  #losses: number[] = [];
  #step = 0;
  #since: number = performance.now();

  constructor(tell: (progress: TrainingProgress) => void) {
    this.#tell = tell;
  }

  step(step: number, loss: number): void {
    this.#step = step;
    this.#losses.push(loss);
    if (performance.now() - this.#since >= tellingEvery) this.flush();
  }

  flush(): void {
    if (this.#losses.length === 0) return;
    const elapsed = performance.now() - this.#since;
    this.#send({ kind: "steps", own: null, kept: null, stepsPerSecond: (1000 * this.#losses.length) / elapsed });
    this.#losses = [];
    this.#since = performance.now();
  }

  evaluation({ step, values }: EvaluationProgress): void {
    this.flush();
    this.#step = step;
    const own = values["own/accuracy"] ?? null;
    this.#send({ kind: "evaluation", own, kept: values["kept/accuracy"] ?? null, stepsPerSecond: 0 });
    // What evaluating took is not the steps' time.
    this.#since = performance.now();
  }

  #send(about: Omit<TrainingProgress, "step" | "losses">): void {
    this.#tell({ ...about, step: this.#step, losses: this.#losses });
  }
}

/** Batches of one size without end: `ownInBatch` examples at most, and `replay` digits for each of them, in new orders in each pass. */
function mixedBatches(own: Digits, replay: Digits | null, { seed, replay: share }: TrainingSettings): BatchSource {
  const count = own.labels.length;
  const batchesPerEpoch = Math.ceil(count / ownInBatch);
  const size = Math.ceil(count / batchesPerEpoch);
  const extra = replay === null ? 0 : Math.min(replay.labels.length, Math.round(size * share));
  const orderOf = (purpose: string, epoch: number, length: number): Int32Array => {
    const order = Int32Array.from({ length }, (_, index) => index);
    createRandom(seed, `${purpose} ${epoch}`).shuffle(order);
    return order;
  };
  return {
    batchesPerEpoch,
    async *batches({ epoch: from, index: start }) {
      let index = start;
      for (let epoch = from; ; epoch++) {
        const order = orderOf("own", epoch, count);
        for (; index < count; index += size) {
          const rows = order.subarray(index, Math.min(index + size, count));
          const pass = epoch * batchesPerEpoch + index / size;
          const mixed =
            replay === null
              ? []
              : [[replay, orderOf("replay", pass, replay.labels.length).subarray(0, extra)] as const];
          const isLast = index + size >= count;
          await turn();
          yield {
            batch: batchOf(picked([[own, rows], ...mixed])),
            next: isLast ? { epoch: epoch + 1, index: 0 } : { epoch, index: index + size },
            examples: rows.length,
          };
        }
        index = 0;
      }
    },
  };
}

function picked(choices: readonly (readonly [Digits, Int32Array])[]): Digits {
  const total = choices.reduce((sum, [, rows]) => sum + rows.length, 0);
  const [images, labels] = [new Uint8Array(total * pixelCount), new Uint8Array(total)];
  let at = 0;
  for (const [from, rows] of choices) {
    for (const row of rows) {
      images.set(from.images.subarray(row * pixelCount, (row + 1) * pixelCount), at * pixelCount);
      labels[at++] = from.labels[row]!;
    }
  }
  return { images, labels };
}

/** Every fifth digit: kept digits come sorted, fifty of each. */
function thinned(digits: Digits): Digits {
  const rows = Int32Array.from(
    { length: Math.floor(digits.labels.length / everyFifth) },
    (_, index) => index * everyFifth,
  );
  return picked([[digits, rows]]);
}
