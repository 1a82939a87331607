// What a run has learnt, as files in its folder.
import { basename, join } from "node:path";
import { merge } from "../adapter/merge.ts";
import { writeAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import { withWeights } from "../lora/full.ts";
import type { Model } from "../onnx/model.ts";
import { checkpointName } from "../runs/checkpoints.ts";
import type { FileContent } from "../runs/files.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import { saveModel } from "../runs/save-model.ts";
import type { Trained, TrainedWeights } from "../train/train.ts";
import { baseFile, type Prepared } from "./prepare.ts";

/** Writes the weights of `pretrain`. Returns the names of the files by what they are. Throws LowrankError "file". */
export async function saveWeights(
  folder: RunFolder,
  { model }: Prepared,
  { tensors, averaged, best }: TrainedWeights,
): Promise<Record<string, string>> {
  await writeWhole(folder, "model.onnx", withWeights(model, averaged ?? tensors));
  if (best !== null) await writeWhole(folder, "best.onnx", withWeights(model, best.tensors));
  return { model: "model.onnx", ...(best !== null && { best: "best.onnx" }), checkpoint: checkpointName };
}

/** Writes the adapters of `tune`, and the models that go with them. As `saveWeights`. */
export async function saveAdapters(
  folder: RunFolder,
  { model, options, data, isNewModel }: Prepared,
  { adapter, averaged, best }: Trained,
): Promise<Record<string, string>> {
  const write = async (name: string, own: Adapter): Promise<void> => {
    const files = new Map<string, FileContent>(writeAdapter(own));
    if (data.labelNames !== null) files.set("labels.json", `${JSON.stringify(data.labelNames, null, 2)}\n`);
    await folder.writeFolder(name, files);
  };
  const last = averaged ?? adapter;
  if (isNewModel) await writeWhole(folder, baseFile, model);
  await write("adapter", last);
  if (best !== null) await write("best", best.adapter);
  if (options.merge) await writeWhole(folder, "merged.onnx", merge(model, best?.adapter ?? last));
  return {
    ...(isNewModel && { base: baseFile }),
    adapter: "adapter",
    ...(best !== null && { best: "best" }),
    ...(options.merge && { merged: "merged.onnx" }),
    checkpoint: checkpointName,
  };
}

/** A model, with its weights in a file of their own where they are many. */
async function writeWhole(folder: RunFolder, name: string, whole: Model): Promise<void> {
  folder.note(name);
  for (const path of await saveModel(whole, join(folder.path, name))) folder.note(basename(path));
}
