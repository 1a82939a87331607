// What the page and its workers say to each other. A worker holds the runtime, the base and the adapters; the page holds what
// people see. Every method is a request with one answer, and some tell of progress meanwhile.

/** playground.json: what scripts/playground/assets.js made. */
export interface About {
  readonly version: 1;
  readonly sizes: readonly number[];
  readonly trainedOn: number;
  readonly testedOn: number;
  /** The digit that the base reads worst, and its wrong counts by digit on all test digits. */
  readonly worst: number;
  readonly wrong: readonly number[];
  readonly adapters: readonly {
    readonly id: string;
    readonly name: string;
    readonly digit: number;
    readonly replay: boolean;
    readonly wrong: readonly number[];
  }[];
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

export type Device = "wasm" | "webgpu";

/** Examples of one's own in a batch, at most. Twice as many learn no better in as many steps, and take twice as long (bench/LOG.md). */
export const ownInBatch = 8;

/** The names of an adapter's files, and their bytes. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** Which adapters run, how strongly, and cut to which rank. */
export interface Mix {
  readonly parts: readonly { readonly id: string; readonly weight: number }[];
  /** Multiplies every update: 1 is the adapter as it was trained. */
  readonly strength: number;
  /** Singular values that are kept in each layer; null keeps all. */
  readonly rank: number | null;
}

export interface LayerInfo {
  readonly path: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Values of weight and bias. */
  readonly parameters: number;
}

/** Images of digits, 784 bytes each, and their labels. */
export interface Digits {
  readonly images: Uint8Array;
  readonly labels: Uint8Array;
}

export interface Opened {
  readonly about: About;
  readonly layers: readonly LayerInfo[];
  readonly parameters: number;
  readonly baseBytes: number;
  readonly device: Device;
  readonly threads: number;
  readonly misread: Digits;
  readonly kept: Digits;
}

export interface AdapterInfo {
  readonly r: number;
  readonly alpha: number;
  /** Scaled by alpha / sqrt(r) instead of alpha / r. */
  readonly isRslora: boolean;
  readonly targets: readonly string[];
  /** Values in A and B, and in a head of its own. */
  readonly parameters: number;
  /** Of the adapter's two files. */
  readonly bytes: number;
  /** The names of its own head's classes; null where it reads digits. */
  readonly labels: readonly string[] | null;
}

export interface LayerSpectrum {
  readonly path: string;
  readonly r: number;
  readonly singularValues: readonly number[];
  readonly effectiveRank: number;
}

/** A mix as one adapter. */
export interface Composed {
  readonly r: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly spectrum: readonly LayerSpectrum[];
  /** Of what the rank has cut off, as a share of the whole update (Frobenius norm). */
  readonly relativeError: number;
  readonly labels: readonly string[] | null;
}

export interface Prediction {
  readonly base: Float32Array;
  readonly adapted: Float32Array;
  readonly ms: number;
}

/** A matrix as a picture: values [height, width], averaged over cells of `cell` x `cell` where it is larger. */
export interface Picture {
  readonly values: Float32Array;
  readonly width: number;
  readonly height: number;
  /** What is drawn in full colour. */
  readonly limit: number;
}

export interface LayerPicture {
  readonly path: string;
  readonly outFeatures: number;
  readonly inFeatures: number;
  readonly r: number;
  readonly scale: number;
  readonly w: Picture;
  readonly b: Picture;
  readonly a: Picture;
  readonly update: Picture;
  readonly sum: Picture;
  /** |W| and |s B A|, Frobenius norms. */
  readonly norms: { readonly w: number; readonly update: number };
}

/** The numbers of this digit behind the formulas. */
export interface Trace {
  /** The first layer's A x, one number for each rank, and s. */
  readonly ax: readonly number[];
  readonly scale: number;
  /** The unit of fc1 that the update moves most: W x + b, and s B A x. */
  readonly unit: number;
  readonly wx: number;
  readonly update: number;
  /** What each part of the mix adds to that unit, before a rank is cut. */
  readonly parts: readonly number[];
  /** |s B A x| of the first layer: as it runs, and with all its directions. */
  readonly lengths: { readonly kept: number; readonly whole: number };
  /** The rows of A of the first layer, as 28 x 28 pictures. */
  readonly rows: readonly Picture[];
}

/** One place of a layer's matrices, and what this digit makes of its row. */
export interface Cell {
  readonly path: string;
  readonly row: number;
  readonly column: number;
  /** W there, and the row of B and column of A that meet there. */
  readonly w: number;
  readonly b: readonly number[];
  readonly a: readonly number[];
  readonly scale: number;
  /** What the layer gets of the digit in that column, and the whole row on it: W x + b, and s B A x. Null without a digit. */
  readonly digit: { readonly x: number; readonly wx: number; readonly update: number } | null;
}

/** What people collected, as it is kept in a file. */
export interface Collection {
  readonly examples: Examples;
  /** Names of one's own symbols; null for digits. */
  readonly labels: readonly string[] | null;
}

export interface Measured {
  /** Wrong answers by class, with the adapter off and on; off is null for symbols of one's own. */
  readonly base: readonly number[] | null;
  readonly adapted: readonly number[];
  /** How many of each class were asked. */
  readonly counts: readonly number[];
}

export interface RankPoint {
  readonly rank: number;
  readonly accuracy: number;
  readonly examples: number | null;
  readonly relativeError: number;
  readonly parameters: number;
}

export interface Examples {
  readonly images: Uint8Array;
  readonly labels: Uint8Array;
}

export interface TrainingSettings {
  readonly r: number;
  readonly alpha: number;
  readonly targets: readonly string[];
  readonly learningRate: number;
  readonly steps: number;
  /** Digits of the training set for each example of one's own, in every batch. */
  readonly replay: number;
  readonly seed: number;
}

export interface TrainingRequest {
  readonly settings: TrainingSettings;
  readonly examples: Examples;
  /** Names of one's own symbols; null to teach digits. */
  readonly labels: readonly string[] | null;
  /** A checkpoint's bytes, to go on from. */
  readonly resume: Uint8Array | null;
}

/** A run's state, so that it can go on after a reload. */
export interface SavedProgress {
  readonly kind: "saved";
  readonly step: number;
  readonly checkpoint: Uint8Array;
}

export interface TrainingProgress {
  readonly kind: "steps" | "evaluation";
  readonly step: number;
  /** Of the steps since the last message. */
  readonly losses: readonly number[];
  readonly stepsPerSecond: number;
  readonly own: number | null;
  readonly kept: number | null;
}

export interface TrainingResult {
  readonly files: Files;
  readonly checkpoint: Uint8Array;
  readonly step: number;
  readonly seconds: number;
  readonly stopped: boolean;
}

export type ExportKind = "peft" | "onnx_adapter" | "base" | "merged";

export interface Inspection {
  readonly opset: number;
  readonly producer: string;
  readonly parameters: number;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly operators: readonly { readonly operator: string; readonly count: number; readonly gradient: string }[];
  readonly sites: readonly {
    readonly path: string;
    readonly operator: string;
    readonly shape: string;
    readonly parameters: number;
    readonly chosen: boolean;
  }[];
  readonly trainable: boolean;
  readonly adapterParameters: number;
  readonly faults: readonly string[];
  readonly obstacles: readonly string[];
}

export interface LoadProgress {
  readonly loaded: number;
  readonly total: number;
}

/** Each method: its argument, its answer, and what it tells on the way. */
export interface Methods {
  open: { argument: { readonly device: Device; readonly threads: number }; answer: Opened; progress: LoadProgress };
  load: { argument: { readonly id: string; readonly files: Files }; answer: AdapterInfo; progress: never };
  unload: { argument: { readonly id: string }; answer: null; progress: never };
  /** Files as they were dropped: PEFT's two, a zip of them, or an .onnx_adapter; the answer is PEFT's files. */
  readFiles: { argument: { readonly files: Files }; answer: Files; progress: never };
  readyFiles: { argument: { readonly id: string }; answer: Files; progress: never };
  compose: { argument: { readonly mix: Mix }; answer: Composed; progress: never };
  predict: { argument: { readonly pixels: Uint8Array; readonly mix: Mix }; answer: Prediction; progress: never };
  picture: { argument: { readonly mix: Mix; readonly layer: string }; answer: LayerPicture; progress: never };
  trace: { argument: { readonly mix: Mix; readonly pixels: Uint8Array }; answer: Trace; progress: never };
  measure: { argument: { readonly mix: Mix; readonly examples: Examples | null }; answer: Measured; progress: never };
  ranks: {
    argument: { readonly mix: Mix; readonly examples: Examples | null };
    answer: readonly RankPoint[];
    progress: never;
  };
  /** A place of a layer; row and column null for the unit that the update moves most and the input that weighs most there. */
  cell: {
    argument: {
      readonly mix: Mix;
      readonly layer: string;
      readonly at: { readonly row: number; readonly column: number } | null;
      readonly pixels: Uint8Array | null;
    };
    answer: Cell;
    progress: never;
  };
  export: { argument: { readonly mix: Mix; readonly kind: ExportKind }; answer: Uint8Array; progress: never };
  /** Examples as a file, with the digits that are mixed in; and back. */
  packExamples: { argument: Collection; answer: Uint8Array; progress: never };
  readExamples: {
    argument: { readonly name: string; readonly bytes: Uint8Array };
    answer: Collection;
    progress: never;
  };
  inspect: {
    argument: { readonly file: Blob; readonly r: number; readonly targets: string };
    answer: Inspection;
    progress: never;
  };
  /** Loads what training needs and compiles it, so that the first run begins as soon as any other. */
  warmUp: { argument: null; answer: null; progress: never };
  train: { argument: TrainingRequest; answer: TrainingResult; progress: TrainingProgress | SavedProgress };
  stop: { argument: null; answer: null; progress: never };
  /** While `isHeld`, measurements wait, those that have begun too. */
  hold: { argument: { readonly isHeld: boolean }; answer: null; progress: never };
}

export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  readonly id: number;
  readonly method: M;
  readonly argument: Methods[M]["argument"];
}

/** An error as it crosses from a worker: its code tells what kind of mistake it was. */
export interface Failure {
  readonly code: string;
  readonly message: string;
}

export type Reply =
  | { readonly id: number; readonly kind: "answer"; readonly value: unknown }
  | { readonly id: number; readonly kind: "progress"; readonly value: unknown }
  | { readonly id: number; readonly kind: "failure"; readonly failure: Failure };
