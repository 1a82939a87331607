// The model that was dropped on the page, and what a worker of its own says of it: reading gigabytes must not keep a digit waiting,
// and a file that ends the worker must not take the page along.
import { type Signal, signal } from "@preact/signals";
import { type Client, startWorker } from "../client.ts";
import type { Inspection } from "../protocol.ts";
import { isInternal } from "./store.ts";

export interface ModelFile {
  readonly name: string;
  readonly file: Blob;
}

export interface ModelConfig {
  readonly r: number;
  readonly targets: string;
}

export const mostRank = 256;

export const asked: Signal<ModelFile | null> = signal<ModelFile | null>(null);
export const config: Signal<ModelConfig> = signal<ModelConfig>({ r: 8, targets: "all-linear" });
export const inspection: Signal<Inspection | null> = signal<Inspection | null>(null);
export const isBusy: Signal<boolean> = signal(false);
export const fault: Signal<string | null> = signal<string | null>(null);

let inspector: Client | undefined;

/** Asks about a file, and about it again when the configuration changes. Only the newest answer counts. */
export async function inspectAgain(model: ModelFile | null = asked.value): Promise<void> {
  if (model === null) return;
  const settings = config.value;
  const isCurrent = (): boolean => asked.value === model && config.value === settings;
  asked.value = model;
  isBusy.value = true;
  fault.value = null;
  inspector ??= startWorker("inspection", "wasm");
  try {
    const answer = await inspector.ask("inspect", { file: model.file, ...settings });
    if (isCurrent()) inspection.value = answer;
  } catch (error) {
    if (isInternal(error)) {
      inspector?.end();
      inspector = undefined;
    }
    if (!isCurrent()) return;
    inspection.value = null;
    fault.value = `${model.name}: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    if (isCurrent()) isBusy.value = false;
  }
}

export function asModel(value: unknown): ModelFile | null {
  const { name, file } = (value ?? {}) as Partial<ModelFile>;
  return typeof name === "string" && file instanceof Blob ? { name, file } : null;
}

export function asConfig(value: unknown): ModelConfig | null {
  const { r, targets } = (value ?? {}) as Partial<ModelConfig>;
  return Number.isInteger(r) && r! >= 1 && r! <= mostRank && typeof targets === "string" ? { r: r!, targets } : null;
}
