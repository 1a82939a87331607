// Every option of tune, pretrain, eval and predict, once: flags, the keys of configuration files, their JSON schema, defaults
// and help all come from these rows. Names are PEFT's for the adapter (adapter_config.json in camelCase) and PyTorch's for
// the rest.

/** The verbs that share these options. */
export type Verb = "tune" | "pretrain" | "eval" | "predict" | "compress";
/** Those whose options a configuration file may hold; compress has options of its own beside these. */
export const verbs: readonly Verb[] = ["tune", "pretrain", "eval", "predict"];

/** The values of all options; null: none, or decided from the model and the data. What each means: its row below. */
export interface RunOptions {
  readonly model: string | null;
  readonly data: readonly string[] | null;
  readonly evalData: readonly string[] | null;
  readonly retainedData: readonly string[] | null;
  readonly split: number;
  readonly filter: readonly string[] | null;
  readonly replay: readonly string[] | null;
  readonly map: readonly string[] | null;
  readonly limit: number | null;
  readonly onBadRow: "stop" | "skip";
  readonly transform: string | null;
  readonly mean: readonly number[] | null;
  readonly std: readonly number[] | null;
  readonly tokenizer: string | null;
  readonly maxLength: number;
  readonly packing: boolean;
  readonly trainOnPrompt: boolean;
  readonly r: number;
  readonly loraAlpha: number | null;
  readonly targetModules: readonly string[];
  readonly excludeModules: readonly string[] | null;
  readonly layersToTransform: readonly number[] | null;
  readonly rankPattern: Table;
  readonly alphaPattern: Table;
  readonly loraDropout: number;
  readonly useRslora: boolean;
  readonly useDora: boolean;
  readonly initLoraWeights: "true" | "gaussian" | "orthogonal" | "pissa" | "olora" | "eva";
  readonly bias: "none" | "all" | "lora_only";
  readonly modulesToSave: readonly string[] | null;
  readonly head: number | null;
  readonly pooling: "cls" | "mean" | "last";
  readonly loraPlusRatio: number | null;
  readonly layers: readonly number[] | null;
  readonly teacher: string | null;
  readonly teacherTemperature: number;
  readonly loss: "auto" | "cross_entropy" | "causal_lm" | "bce" | "mse" | "mae" | "huber";
  readonly output: string | null;
  readonly labelSmoothing: number;
  readonly classWeights: readonly number[] | null;
  readonly optimizer: "adamw" | "adam" | "sgd" | "lion" | "adafactor";
  readonly learningRate: number | null;
  readonly weightDecay: number;
  readonly momentum: number;
  readonly schedule: "constant" | "linear" | "cosine" | "one-cycle" | "plateau";
  readonly warmup: number;
  readonly plateauPatience: number;
  readonly plateauFactor: number;
  readonly batchSize: number;
  readonly accumulate: number;
  readonly epochs: number;
  readonly steps: number | null;
  readonly clip: number;
  readonly precision: "float32" | "float16";
  readonly ema: number | null;
  readonly seed: number;
  readonly resume: boolean;
  readonly checkpointEvery: number | null;
  readonly findLr: boolean;
  readonly prefixCache: boolean;
  readonly checkpointActivations: boolean;
  readonly evalEvery: number | null;
  readonly evalEpochs: number;
  readonly metric: "loss" | "accuracy" | "agreement" | "retained/loss" | "retained/accuracy" | null;
  readonly patience: number | null;
  readonly minDelta: number;
  readonly adapter: readonly string[] | null;
  readonly out: string | null;
  readonly device: "cpu" | "webgpu" | "cuda" | "auto";
  readonly threads: number | null;
  readonly tensorboard: boolean;
  readonly merge: boolean;
  readonly threshold: number | null;
  readonly prompt: readonly string[] | null;
  readonly chat: boolean;
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly stop: readonly string[] | null;
}

interface Row<Kind extends string, Value> {
  readonly kind: Kind;
  readonly default: Value;
  readonly about: string;
  /** The heading that it stands under in the help. */
  readonly group: Group;
  readonly verbs: readonly Verb[];
  /** What the value is called in the help; default the kind. */
  readonly value?: string;
  /** For configuration files only: it has no flag. */
  readonly fileOnly?: true;
}

interface Numeric<Value> extends Row<"number" | "integer", Value> {
  readonly from?: number;
  readonly to?: number;
  /** The bound `from` itself is out. */
  readonly open?: true;
}

interface Choice<Value> extends Row<"choice", Value> {
  readonly choices: readonly string[];
}

type Table = Readonly<Record<string, number>>;

/** The rows that an option of this type can have. */
type RowOf<Value> =
  NonNullable<Value> extends number
    ? Numeric<Value>
    : NonNullable<Value> extends boolean
      ? Row<"flag", Value>
      : NonNullable<Value> extends string
        ? Row<"text", Value> | Choice<Value>
        : NonNullable<Value> extends readonly string[]
          ? Row<"texts", Value>
          : NonNullable<Value> extends readonly number[]
            ? Row<"numbers", Value>
            : Row<"table", Value>;

export type OptionRow =
  | Numeric<number | null>
  | Choice<string | null>
  | Row<"text", string | null>
  | Row<"flag", boolean>
  | Row<"texts", readonly string[] | null>
  | Row<"numbers", readonly number[] | null>
  | Row<"table", Table>;

export const groups = ["Data", "Adapter", "Loss", "Training", "Evaluation", "Output", "Text generation"] as const;
export type Group = (typeof groups)[number];

const every: readonly Verb[] = [...verbs, "compress"];
const train: readonly Verb[] = ["tune", "pretrain"];
const tune: readonly Verb[] = ["tune"];
const measured: readonly Verb[] = ["tune", "pretrain", "eval"];
/** `compress --recover` tunes. */
const recovery: readonly Verb[] = [...tune, "compress"];
const trainOrRecovery: readonly Verb[] = [...train, "compress"];

/** Rows of one group, for these verbs unless they say others. */
const of =
  (group: Group, those: readonly Verb[]) =>
  <const R extends object>(row: R): R & { readonly group: Group; readonly verbs: readonly Verb[] } => ({
    group,
    verbs: those,
    ...row,
  });

const data = of("Data", every);
const adapter = of("Adapter", tune);
const loss = of("Loss", measured);
const training = of("Training", train);
const evaluation = of("Evaluation", train);
const output = of("Output", every);
const generation = of("Text generation", ["predict"]);

/** In the order of the help. */
export const optionTable: { readonly [Name in keyof RunOptions]: RowOf<RunOptions[Name]> } = {
  model: data({
    kind: "text",
    default: null,
    fileOnly: true,
    about: "the .onnx file; on the command line, the argument",
  }),
  data: data({
    kind: "texts",
    default: null,
    value: "file",
    about:
      "what to work on: IDX, CSV, JSONL, Parquet or safetensors files, or a folder of images by class (to predict, also images without classes); several are read as one",
  }),
  evalData: data({
    kind: "texts",
    default: null,
    value: "file",
    verbs: trainOrRecovery,
    about: "data to evaluate on; without it a share of the data is held out (--split)",
  }),
  retainedData: data({
    kind: "texts",
    default: null,
    value: "file",
    verbs: tune,
    about: "data that the model should go on handling: evaluated beside the target, never trained on",
  }),
  split: data({
    kind: "number",
    default: 0.1,
    from: 0,
    to: 0.9,
    verbs: trainOrRecovery,
    about:
      "share of the data that is held out for evaluation when --eval-data names none; chosen by a hash of each row",
  }),
  filter: data({
    kind: "texts",
    default: null,
    value: "rule",
    about: "only rows for which this holds: label=9, length<512, label in 3,8; all of several",
  }),
  replay: data({
    kind: "texts",
    default: null,
    value: "file=share",
    verbs: tune,
    about: "mix rows of another file into each batch, so that the model keeps what it knows: general.csv=0.5",
  }),
  map: data({
    kind: "texts",
    default: null,
    value: "input=column",
    about: "which column feeds which input of the model, where the names differ; labels=column names the labels",
  }),
  limit: data({ kind: "integer", default: null, from: 1, about: "use at most this many rows" }),
  onBadRow: data({
    kind: "choice",
    default: "stop",
    choices: ["stop", "skip"],
    about: "a row that cannot be read ends the run, or is counted, named and left out",
  }),
  transform: data({
    kind: "text",
    default: null,
    value: "name[:n]",
    about:
      "make images of another domain of those in --data and --eval-data (rotation:30, invert, fog:5, …); what is retained or replayed stays as it is",
  }),
  mean: data({
    kind: "numbers",
    default: null,
    about: "subtracted from images, after scaling to 0 to 1; one, or one for each channel",
  }),
  std: data({ kind: "numbers", default: null, about: "what images are divided by after that" }),
  tokenizer: data({
    kind: "text",
    default: null,
    value: "file",
    about: "Hugging Face tokenizer.json for text (default: the one beside the model)",
  }),
  maxLength: data({ kind: "integer", default: 512, from: 1, about: "tokens of a text; longer ones are cut" }),
  packing: data({
    kind: "flag",
    default: false,
    verbs: train,
    about: "join short texts to rows of the full length instead of padding them",
  }),
  trainOnPrompt: data({
    kind: "flag",
    default: false,
    verbs: train,
    about: "count the prompt's tokens in the loss as well; by default only the completion's",
  }),

  r: adapter({ kind: "integer", default: 8, from: 1, to: 4096, verbs: recovery, about: "rank of A and B" }),
  loraAlpha: adapter({
    kind: "number",
    default: null,
    from: 0,
    open: true,
    verbs: recovery,
    about: "the update is scaled by alpha / r (default: 2 r, as the QLoRA and PEFT guides have it)",
  }),
  targetModules: adapter({
    kind: "texts",
    default: ["all-linear"],
    value: "modules",
    about:
      'the layers to adapt: module paths or their last segments, "all-linear" (as Dettmers et al. 2023 found best), or a regular expression between slashes',
  }),
  excludeModules: adapter({ kind: "texts", default: null, value: "modules", about: "layers to leave out" }),
  layersToTransform: adapter({ kind: "numbers", default: null, about: "only in these blocks, counted from 0" }),
  rankPattern: adapter({ kind: "table", default: {}, fileOnly: true, about: "rank by module path or pattern, over r" }),
  alphaPattern: adapter({
    kind: "table",
    default: {},
    fileOnly: true,
    about: "alpha by module path or pattern, over loraAlpha",
  }),
  loraDropout: adapter({ kind: "number", default: 0, from: 0, to: 0.99, about: "dropout before A while training" }),
  useRslora: adapter({
    kind: "flag",
    default: false,
    about: "scale by alpha / sqrt(r) (Kalajdzievski 2023)",
  }),
  useDora: adapter({ kind: "flag", default: false, about: "train magnitude and direction apart (Liu et al. 2024)" }),
  initLoraWeights: adapter({
    kind: "choice",
    default: "true",
    choices: ["true", "gaussian", "orthogonal", "pissa", "olora", "eva"],
    about: "how A and B start",
  }),
  bias: adapter({
    kind: "choice",
    default: "none",
    choices: ["none", "all", "lora_only"],
    about: "which biases are trained as well",
  }),
  modulesToSave: adapter({ kind: "texts", default: null, value: "modules", about: "layers that are trained whole" }),
  head: adapter({
    kind: "integer",
    default: null,
    from: 2,
    about: "append a fresh classification head with this many labels, trained whole",
  }),
  pooling: adapter({
    kind: "choice",
    default: "cls",
    choices: ["cls", "mean", "last"],
    about: "what --head reads of a sequence: its first token, the mean of all, or the last",
  }),
  loraPlusRatio: adapter({
    kind: "number",
    default: null,
    from: 1,
    about: "B's learning rate is this many times A's (LoRA+, Hayou et al. 2024)",
  }),
  layers: of("Training", ["pretrain"])({
    kind: "numbers",
    default: null,
    value: "sizes",
    about: "instead of a model: a network of linear layers with ReLU between them, such as 784,1000,2000,10",
  }),

  teacher: loss({
    kind: "text",
    default: null,
    value: "file",
    verbs: tune,
    about: "learn the outputs of this model instead of labels, which are not read (distillation; Hinton et al. 2015)",
  }),
  teacherTemperature: loss({
    kind: "number",
    default: 1,
    from: 0,
    open: true,
    verbs: recovery,
    about: "what logits are divided by where the outputs of another model are learnt",
  }),
  loss: loss({
    kind: "choice",
    default: "auto",
    choices: ["auto", "cross_entropy", "causal_lm", "bce", "mse", "mae", "huber"],
    verbs: [...measured, "compress"],
    about: "auto: causal_lm for token outputs with text, cross_entropy for whole-number labels, mse for others",
  }),
  output: loss({
    kind: "text",
    default: null,
    value: "name",
    verbs: every,
    about: "the model's output that is meant (default: its first)",
  }),
  labelSmoothing: loss({
    kind: "number",
    default: 0,
    from: 0,
    to: 1,
    about: "share of the target spread over all classes",
  }),
  classWeights: loss({ kind: "numbers", default: null, about: "how much each class counts" }),

  optimizer: training({
    kind: "choice",
    default: "adamw",
    choices: ["adamw", "adam", "sgd", "lion", "adafactor"],
    about: "how weights are updated",
  }),
  learningRate: training({
    kind: "number",
    default: null,
    from: 0,
    open: true,
    verbs: trainOrRecovery,
    about:
      "default 1e-3 for adapters, ten times that of full training, which Schulman et al. 2025 found best for any model; 1e-4 for lion and a tenth of each for pretrain",
  }),
  weightDecay: training({
    kind: "number",
    default: 0,
    from: 0,
    about: "decoupled weight decay (Loshchilov & Hutter 2019)",
  }),
  momentum: training({ kind: "number", default: 0.9, from: 0, to: 0.9999, about: "of sgd" }),
  schedule: training({
    kind: "choice",
    default: "linear",
    choices: ["constant", "linear", "cosine", "one-cycle", "plateau"],
    verbs: trainOrRecovery,
    about: "how the learning rate goes on after the warm-up",
  }),
  warmup: training({
    kind: "number",
    default: 0.03,
    from: 0,
    about: "steps that the rate rises for; below 1, a share of all",
  }),
  plateauPatience: training({
    kind: "integer",
    default: 2,
    from: 0,
    about: "with the schedule plateau: evaluations without a better one that are let pass before the rate falls",
  }),
  plateauFactor: training({
    kind: "number",
    default: 0.1,
    from: 0,
    open: true,
    to: 0.99,
    about: "what the rate is multiplied by then (ReduceLROnPlateau's default)",
  }),
  batchSize: training({
    kind: "integer",
    default: 32,
    from: 1,
    verbs: every,
    about: "examples in a batch; LoRA gains nothing from very large ones",
  }),
  accumulate: training({
    kind: "integer",
    default: 1,
    from: 1,
    about: "batches whose gradients are summed for one step",
  }),
  epochs: training({
    kind: "number",
    default: 3,
    from: 0,
    open: true,
    verbs: trainOrRecovery,
    about: "passes over the data",
  }),
  steps: training({
    kind: "integer",
    default: null,
    from: 1,
    verbs: trainOrRecovery,
    about: "instead of epochs: how many steps",
  }),
  clip: training({ kind: "number", default: 1, from: 0, about: "largest norm of all gradients together; 0: none" }),
  precision: training({
    kind: "choice",
    default: "float32",
    choices: ["float32", "float16"],
    about: "what products are computed in; float16 is for GPUs that have it, with a loss that is scaled as it goes",
  }),
  ema: training({
    kind: "number",
    default: null,
    from: 0,
    to: 0.99999,
    about: "keep an exponential moving average of the weights with this decay, and save that",
  }),
  seed: training({ kind: "integer", default: 0, from: 0, verbs: every, about: "of all that is random" }),
  resume: training({
    kind: "flag",
    default: false,
    about: "go on from the last checkpoint in --out; without one, begin",
  }),
  checkpointEvery: training({
    kind: "integer",
    default: null,
    from: 1,
    about: "steps between checkpoints (default: each evaluation)",
  }),
  findLr: training({
    kind: "flag",
    default: false,
    about: "do not train: raise the learning rate step by step, and say which one to take (Smith 2017)",
  }),
  prefixCache: training({
    kind: "flag",
    default: true,
    verbs: tune,
    about:
      "run the layers below the lowest adapter in every step; by default they run once for each row where that pays, and what they give is kept: in memory up to 1 GiB and a quarter of what is free, in the run folder up to half of what is free",
  }),
  checkpointActivations: training({
    kind: "flag",
    default: false,
    about: "hold less in memory: activations are computed again when gradients need them (Chen et al. 2016)",
  }),

  evalEvery: evaluation({
    kind: "integer",
    default: null,
    from: 1,
    about: "steps between evaluations (default: --eval-epochs)",
  }),
  evalEpochs: evaluation({ kind: "integer", default: 1, from: 1, about: "passes over the data between evaluations" }),
  metric: evaluation({
    kind: "choice",
    default: null,
    choices: ["loss", "accuracy", "agreement", "retained/loss", "retained/accuracy"],
    about:
      "what the best checkpoint is chosen by (default: accuracy for classes, loss for tokens and numbers), on the target or the retained data; agreement is with --teacher",
  }),
  patience: evaluation({
    kind: "integer",
    default: null,
    from: 1,
    about: "stop after this many evaluations without a better one",
  }),
  minDelta: evaluation({ kind: "number", default: 0, from: 0, about: "how much better a better one must be" }),

  adapter: of("Adapter", ["eval", "predict"])({
    kind: "texts",
    default: null,
    value: "folder",
    about: "an adapter to run with; of several, eval compares all, predict takes one",
  }),
  out: output({
    kind: "text",
    default: null,
    value: "folder",
    verbs: measured,
    about: "run folder (default: runs/<verb>-<time>)",
  }),
  device: output({
    kind: "choice",
    default: "cpu",
    choices: ["cpu", "webgpu", "cuda", "auto"],
    about: "where the model runs; auto takes a GPU where one is found, and says which",
  }),
  threads: output({ kind: "integer", default: null, from: 1, to: 1024, about: "threads of the runtime" }),
  tensorboard: output({ kind: "flag", default: false, verbs: train, about: "write TensorBoard event files as well" }),

  merge: output({
    kind: "flag",
    default: false,
    verbs: tune,
    about: "write merged.onnx as well: the model with the best adapter in its weights",
  }),

  threshold: of("Evaluation", ["predict"])({
    kind: "number",
    default: null,
    from: 0,
    to: 1,
    about:
      "give every label that is at least so likely, for a model of labels that hold or not (default: 0.5 where the run beside the model or adapter was trained with bce; else the likeliest class is given)",
  }),

  prompt: generation({ kind: "texts", default: null, value: "text", about: "text to go on from, instead of --data" }),
  chat: generation({
    kind: "flag",
    default: false,
    about: "prompts are what a user says in a chat: the tokenizer's chat template is written around them",
  }),
  maxNewTokens: generation({ kind: "integer", default: 64, from: 1, about: "most tokens to add" }),
  temperature: generation({
    kind: "number",
    default: 0,
    from: 0,
    about: "0 takes the likeliest token; 1 draws as the model has it",
  }),
  stop: generation({ kind: "texts", default: null, value: "text", about: "end where one of these texts appears" }),
};

export type OptionName = keyof RunOptions;

/** The options of a verb, in the order of the help. */
export function optionsOf(verb: Verb): [name: OptionName, row: OptionRow][] {
  return (Object.entries(optionTable) as [OptionName, OptionRow][]).filter(([, row]) => row.verbs.includes(verb));
}

/** `learningRate` as it is on the command line: `learning-rate`. */
export function flagOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
