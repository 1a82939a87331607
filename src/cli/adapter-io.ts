// Where the adapter verbs read and write: PEFT directories and .onnx files, whole or not at all.
import { join } from "node:path";
import { readAdapter, writeAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import { readFileChecked, writeFileAtomic, writeFolderAtomic } from "../runs/files.ts";

/** The adapter in a PEFT directory. */
export async function loadAdapter(folder: string, onWarning: (message: string) => void): Promise<Adapter> {
  const names = ["adapter_config.json", "adapter_model.safetensors"];
  const files = await Promise.all(
    names.map(async (name) => [name, await readFileChecked(join(folder, name))] as const),
  );
  return readAdapter(new Map(files), { where: folder, onWarning });
}

/** Checks what would be written; writes it unless told to try only. */
export async function saveAdapter(folder: string, adapter: Adapter, { dryRun }: { dryRun: boolean }): Promise<void> {
  const files = writeAdapter(adapter);
  if (!dryRun) await writeFolderAtomic(folder, files);
}

/** The same for a model. */
export async function saveModel(model: Model, path: string, { dryRun }: { dryRun: boolean }): Promise<void> {
  const bytes = writeModel(model);
  if (!dryRun) await writeFileAtomic(path, bytes);
}
