// lowrank tune
import { Command } from "commander";
import { runTune } from "../tune/run.ts";
import { trainCommand } from "./train-command.ts";

export function tuneCommand(): Command {
  return trainCommand({
    verb: "tune",
    command: new Command("tune")
      .description("Tune an adapter (LoRA) for an ONNX model on your data, and leave a run folder with it.")
      .argument("[model]", "an .onnx file (or `model` in --config)"),
    run: runTune,
    example:
      "  lowrank tune model.onnx --data train.csv --out runs/first\n" +
      "  lowrank tune encoder.onnx --data reviews.jsonl --head 2 --epochs 5 --patience 3\n" +
      "  lowrank tune model.onnx --data train.csv --out runs/first --resume",
  });
}
