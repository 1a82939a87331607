// lowrank pretrain
import { Command } from "commander";
import { runPretrain } from "../tune/run.ts";
import { trainCommand } from "./train-command.ts";

export function pretrainCommand(): Command {
  return trainCommand({
    verb: "pretrain",
    command: new Command("pretrain")
      .description(
        "Train all weights of an ONNX model, or of a fresh network of linear layers, and leave a run folder.",
      )
      .argument("[model]", "an .onnx file (or `model` in --config; or --layers)"),
    run: runPretrain,
    example:
      "  lowrank pretrain --layers 784,1000,2000,10 --data digits.csv --out runs/base\n" +
      "  lowrank pretrain model.onnx --data train.parquet --learning-rate 3e-4",
  });
}
