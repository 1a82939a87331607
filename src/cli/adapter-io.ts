// Where the adapter verbs write: what is written is checked as a whole first, and with --dry-run that is all.
import { writeAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import { saveAdapter as saveAdapterFiles } from "../runs/adapter-files.ts";
import { saveModel as saveModelFiles } from "../runs/save-model.ts";

/** An adapter as a PEFT directory. */
export async function saveAdapter(folder: string, adapter: Adapter, { dryRun }: { dryRun: boolean }): Promise<void> {
  if (dryRun) writeAdapter(adapter);
  else await saveAdapterFiles(folder, adapter);
}

interface SaveModelFlags {
  readonly dryRun?: boolean;
  readonly external?: boolean;
}

/** A model, with its weights beside it on request, or where they are many. Returns the files that it is in. */
export async function saveModel(model: Model, path: string, flags: SaveModelFlags): Promise<readonly string[]> {
  if (flags.dryRun) return [path];
  return saveModelFiles(model, path, flags.external === undefined ? {} : { external: flags.external });
}
