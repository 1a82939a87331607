// What runs the model for the server: adapters are loaded under keys, and a job is a batch whose rows have adapters of their own.
// The server talks to this interface alone, so that a worker thread can be behind it (worker-engine.ts) or the same thread
// (local-engine.ts, in tests).
import type { AdapterHome } from "../runs/adapter-files.ts";
import type { Device } from "../runtime/session.ts";
import type { Tensor } from "../tensor.ts";

/** An input or output of the model as it declares it. */
export interface Port {
  readonly name: string;
  /** ONNX Runtime's name of the element type; undefined for what is no number. */
  readonly type: string | undefined;
  /** Sizes, names of symbolic sizes, null for unknown ones; null when nothing is known. */
  readonly shape: readonly (number | string | null)[] | null;
}

/** What a server needs to know of the model. */
export interface Description {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Whether requests can share a run: all inputs and outputs have the batch as their first axis, and rows do not see each other. */
  readonly sharesRuns: boolean;
  /** Layers that adapters of the first session may change. */
  readonly modules: readonly string[];
}

/** An adapter as bytes. */
export interface AdapterSource {
  readonly home: AdapterHome;
  /** By their names in the directory; an `.onnx_adapter` is one file named "". */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

export interface LoadedInfo {
  /** Memory that it takes, in bytes. */
  readonly bytes: number;
}

/** A row's adapter: null for the base, a key, or a weighted sum of keys. */
export type RowChoice = string | null | readonly { readonly key: string; readonly weight: number }[];

/** One request's part of a batch. */
export interface JobItem {
  readonly rows: number;
  /** One for all of its rows, or one for each. */
  readonly choices: readonly RowChoice[];
}

export interface Job {
  /** The items' rows one after the other. */
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly items: readonly JobItem[];
}

export interface Failure {
  /** As in HTTP: 400 for a request that is at fault, 503 for one that may be tried again, 500 for a fault of our own. */
  readonly status: number;
  readonly message: string;
}

/** One item's outputs by name, or what went wrong with it. */
export type ItemResult = { readonly outputs: Readonly<Record<string, Tensor>> } | { readonly failure: Failure };

export interface JobResult {
  /** One for each item. */
  readonly results: readonly ItemResult[];
  /** Time that the model ran, in seconds. */
  readonly seconds: number;
}

export interface EngineOptions {
  readonly model: string;
  readonly device?: Device;
  readonly threads?: number;
  /** Layers that adapters may change: module paths, their last segments, or "all-linear"; default: those of `samples`. */
  readonly targets?: readonly string[] | string;
  /** Adapters of each kind that will be loaded: their layers get branches from the start. */
  readonly samples?: readonly AdapterSource[];
  readonly maxRank: number;
  /** Sessions for adapters that change other parts of the model than A and B at those layers do. */
  readonly maxSessions: number;
}

export interface Engine {
  readonly description: Description;
  /**
   * Loads an adapter under a key that no other has. Throws LowrankError "adapter" with everything that does not fit.
   * @param label what messages call it
   */
  load(key: string, label: string, source: AdapterSource): Promise<LoadedInfo>;
  /** Lets it go; jobs that were handed over before keep it. */
  unload(key: string): Promise<void>;
  run(job: Job): Promise<JobResult>;
  dispose(): Promise<void>;
}
