// One journey through the library's browser-safe part, written once and run in Node.js and in a browser: so only `lowrank`
// may be imported here, and results are plain lists that can leave the page.
import {
  type Adapter,
  adamw,
  attachLora,
  type Batch,
  batchesOf,
  type Checkpoint,
  cosine,
  createModel,
  createRandom,
  createSession,
  crossEntropy,
  graphBuilder,
  initAdapter,
  type LoraConfig,
  type Model,
  merge,
  type Random,
  readAdapter,
  readCheckpoint,
  readModel,
  readSafetensors,
  type SessionOptions,
  type Tensor,
  tensor,
  train,
  valueAndGrad,
  warmup,
  writeAdapter,
  writeCheckpoint,
  writeModel,
} from "lowrank";

export interface ToyResult {
  /** Of each step. */
  readonly losses: number[];
  /** The trained adapter's tensors as they are in memory, by key. */
  readonly trained: Record<string, number[]>;
  /** The same after writeAdapter and readAdapter. */
  readonly readBack: Record<string, number[]>;
  readonly fileNames: string[];
  /** Logits [rows, classes]: the base, the adapter on, the adapter off, the merged model after writeModel and readModel. */
  readonly base: number[];
  readonly enabled: number[];
  readonly disabled: number[];
  readonly merged: number[];
  /** Logits with the adapter on every other row, from the first. */
  readonly everyOther: number[];
  readonly accuracy: { readonly base: number; readonly enabled: number };
}

export interface GoldenResult {
  readonly loss: number;
  readonly expectedLoss: number;
  /** Each gradient, and what PyTorch says it is. */
  readonly gradients: { readonly key: string; readonly ours: number[]; readonly expected: number[] }[];
}

const features = 8;
const hidden = 24;
const classes = 4;
const rows = 32;
const steps = 40;

/** Trains an adapter on a toy task, saves and reads it, merges it, and runs all that there is to run. */
export async function toyJourney(): Promise<ToyResult> {
  const random = createRandom(0, "toy");
  const base = toyModel(random);
  const { batch, labels } = toyBatch(random);
  const adapted = attachLora(base, { r: 2, loraAlpha: 2, targetModules: ["first", "second"] });
  const { adapter: start } = initAdapter(adapted, { seed: 5 });
  const { adapter, history } = await train(adapted, repeat(batch), { adapter: start, steps, learningRate: 0.02 });
  const files = writeAdapter(adapter);
  const again = readAdapter(files);
  const merged = readModel(writeModel(merge(base, again)));

  const [plain, switching, single] = [
    await createSession(base),
    await createSession(attachLora(base, loraConfig(again))),
    await createSession(merged),
  ];
  const logits = (results: Map<string, Tensor>): number[] => [...(results.get("logits")!.data as Float32Array)];
  const result = {
    losses: [...history.losses],
    trained: values(adapter),
    readBack: values(again),
    fileNames: [...files.keys()].sort(),
    base: logits(await plain.run(batch.inputs)),
    enabled: logits(await switching.run(batch.inputs, { adapter: again })),
    disabled: logits(await switching.run(batch.inputs)),
    merged: logits(await single.run(batch.inputs)),
    everyOther: logits(
      await switching.run(batch.inputs, { rows: labels.map((_, row) => (row % 2 === 0 ? again : null)) }),
    ),
  };
  for (const session of [plain, switching, single]) await session.dispose();
  return {
    ...result,
    accuracy: { base: accuracy(result.base, labels), enabled: accuracy(result.enabled, labels) },
  };
}

export interface ResumeResult {
  /** The files of two runs at their end: one left alone, and one that went on from the first one's file of step 12. */
  readonly whole: number[];
  readonly resumed: number[];
  /** Of the whole run. */
  readonly losses: number[];
  readonly retained: number[];
}

/** Trains on data in memory with all that a run may have, writes checkpoints, and goes on from one of them. */
export async function resumeJourney(): Promise<ResumeResult> {
  const random = createRandom(0, "toy");
  const adapted = attachLora(toyModel(random), { r: 2, loraAlpha: 2 });
  const { batch } = toyBatch(random);
  const sets = { target: [batch], retained: [toyBatch(random).batch] };
  const source = batchesOf(batch, { batchSize: 8, seed: 2 });
  const files = new Map<number, Uint8Array>();
  const run = (resume?: Checkpoint) =>
    train(adapted, source, {
      steps: 30,
      seed: 5,
      optimizer: adamw(),
      learningRate: warmup(cosine(0.02, { steps: 26 }), { steps: 4 }),
      accumulate: 2,
      clipNorm: 1,
      ema: { decay: 0.9 },
      evaluation: { sets, every: { steps: 5 } },
      checkpoint: {
        every: { steps: 6 },
        save: (checkpoint) => {
          files.set(checkpoint.step, writeCheckpoint(checkpoint));
        },
      },
      ...(resume !== undefined && { resume }),
    });
  const { history } = await run();
  const [whole, middle] = [files.get(30)!, files.get(12)!];
  files.clear();
  await run(readCheckpoint(middle));
  return {
    whole: [...whole],
    resumed: [...files.get(30)!],
    losses: [...history.losses],
    retained: history.evaluations.map(({ values: found }) => found["retained/loss"]!),
  };
}

/** Loss and gradients of a golden case with Linear layers and cross entropy; `read` gives its files. */
export async function goldenGradients(
  read: (name: string) => Promise<Uint8Array>,
  options: SessionOptions = {},
): Promise<GoldenResult> {
  const spec = JSON.parse(new TextDecoder().decode(await read("case.json"))) as {
    r: number;
    lora_alpha: number;
    modules: string[];
  };
  const { tensors } = readSafetensors(await read("tensors.safetensors"), "tensors.safetensors");
  const model = readModel(await read("model.onnx"));
  const adapted = attachLora(model, { r: spec.r, loraAlpha: spec.lora_alpha, targetModules: spec.modules });
  const parts = spec.modules.flatMap((module) => ["lora_A", "lora_B"].map((part) => `${module}.${part}`));
  const key = (part: string): string => `base_model.model.${part}.weight`;
  const adapter: Adapter = {
    config: initAdapter(adapted).adapter.config,
    tensors: new Map(parts.map((part) => [key(part), tensors.get(`lora.${part}`)!])),
  };
  const batch = { inputs: { x: tensors.get("input.x")! }, labels: tensors.get("labels")! };
  try {
    const { loss, grads } = await valueAndGrad(adapted, adapter, batch, crossEntropy(), options);
    return {
      loss,
      expectedLoss: Number(tensors.get("loss")!.data[0]),
      gradients: parts.map((part) => ({
        key: part,
        ours: [...(grads.get(key(part))!.data as Float32Array)],
        expected: [...(tensors.get(`grad.${part}`)!.data as Float32Array)],
      })),
    };
  } finally {
    await adapted.dispose();
  }
}

export interface DeviceResult {
  /** Of each step. */
  readonly losses: number[];
  /** Logits [rows, classes]: the adapter on, off, and on every other row, from the first. */
  readonly enabled: number[];
  readonly disabled: number[];
  readonly everyOther: number[];
}

/** Some steps of the toy task on a device, and the adapter run there. */
export async function deviceJourney(options: SessionOptions): Promise<DeviceResult> {
  const random = createRandom(0, "toy");
  const base = toyModel(random);
  const { batch } = toyBatch(random);
  const adapted = attachLora(base, { r: 2, loraAlpha: 2, targetModules: ["first", "second"] });
  const { adapter: start } = initAdapter(adapted, { seed: 5 });
  const training = { ...options, adapter: start, steps: 20, learningRate: 0.02 };
  const { adapter, history } = await train(adapted, repeat(batch), training);
  const session = await createSession(adapted, options);
  const logits = (results: Map<string, Tensor>): number[] => [...(results.get("logits")!.data as Float32Array)];
  try {
    return {
      losses: [...history.losses],
      enabled: logits(await session.run(batch.inputs, { adapter })),
      disabled: logits(await session.run(batch.inputs)),
      everyOther: logits(
        await session.run(batch.inputs, {
          rows: Array.from({ length: rows }, (_, row) => (row % 2 === 0 ? adapter : null)),
        }),
      ),
    };
  } finally {
    await session.dispose();
  }
}

/** FIXME: adapter.config itself, once the type of attachLora's argument takes what readAdapter gives. */
export function loraConfig({ config: { r, loraAlpha, targetModules } }: Adapter): LoraConfig {
  return { r, loraAlpha, targetModules };
}

/** x [batch, 8] -> logits [batch, 4], with a ReLU between two linear layers of random weights. */
function toyModel(random: Random): Model {
  const g = graphBuilder({ name: "toy", opset: 17 });
  const x = g.input("x", "float32", ["batch", features]);
  const linear = (name: string, input: string, inFeatures: number, outFeatures: number, output?: string): string => {
    const weight = tensor("float32", [outFeatures, inFeatures], normals(random, outFeatures * inFeatures, 0.3));
    const bias = tensor("float32", [outFeatures], normals(random, outFeatures, 0.3));
    const parameters = [g.initializer(`${name}.weight`, weight), g.initializer(`${name}.bias`, bias)];
    const options = { name: `/${name}/Gemm`, ...(output !== undefined && { output }) };
    return g.op("Gemm", [input, ...parameters], { transB: 1 }, options);
  };
  const relu = g.op("Relu", [linear("first", x, features, hidden)]);
  g.output(linear("second", relu, hidden, classes, "logits"), "float32", ["batch", classes]);
  return createModel(g.build(), { opset: 17 });
}

/** Rows whose class is the largest of their first four features. */
function toyBatch(random: Random): { batch: Batch; labels: number[] } {
  const x = normals(random, rows * features, 1);
  const labels = Array.from({ length: rows }, (_, row) => indexOfLargest([...x.subarray(row * features)], classes));
  return {
    batch: {
      inputs: { x: tensor("float32", [rows, features], x) },
      labels: tensor("int64", [rows], BigInt64Array.from(labels, BigInt)),
    },
    labels,
  };
}

function* repeat(batch: Batch): Generator<Batch> {
  for (;;) yield batch;
}

function normals(random: Random, count: number, deviation: number): Float32Array {
  return Float32Array.from({ length: count }, () => random.normal() * deviation);
}

function values({ tensors }: Adapter): Record<string, number[]> {
  return Object.fromEntries([...tensors].map(([key, { data }]) => [key, [...(data as Float32Array)]]));
}

function accuracy(logits: readonly number[], labels: readonly number[]): number {
  const right = labels.filter((label, row) => indexOfLargest(logits.slice(row * classes), classes) === label);
  return right.length / labels.length;
}

function indexOfLargest(from: readonly number[], count: number): number {
  const first = from.slice(0, count);
  return first.indexOf(Math.max(...first));
}
