// lowrank study
import { Command, Option } from "commander";
import { deviceChoices } from "../runtime/session.ts";
import { type StudyOptions, studyDefaults } from "../study/options.ts";
import { runStudy } from "../study/study.ts";
import { withInterrupt } from "./main-errors.ts";
import { parseNumber } from "./options.ts";
import { createTerminal } from "./terminal.ts";
import { voiceOf } from "./voice.ts";

interface Flags extends Omit<StudyOptions, "learningRate" | "digit" | "limit"> {
  lr: number;
  digit?: number;
  limit?: number;
  data?: string;
  out?: string;
  json?: boolean;
  quiet?: boolean;
}

export function studyCommand(): Command {
  const { head, rank, alpha, learningRate, batch, epochs, steps, replay, seed, device, threads } = studyDefaults;
  const number = (flags: string, text: string, value?: number): Option => {
    const option = new Option(flags, text).argParser(parseNumber);
    return value === undefined ? option : option.default(value);
  };
  return new Command("study")
    .description(
      "The LoRA study on MNIST: train a network, freeze it, tune an adapter on its worst digit, and show what that buys and costs.",
    )
    .addOption(
      new Option("--head <head>", "the network's last layer: with the documented ReLU, linear, or both in turn")
        .choices(["relu", "linear", "both"])
        .default(head),
    )
    .addOption(number("--rank <r>", "rank of A and B", rank))
    .addOption(number("--alpha <alpha>", "scale: the update is (alpha / rank) B A", alpha))
    .addOption(number("--lr <rate>", "learning rate of Adam, for the base and the adapter", learningRate))
    .addOption(number("--batch <n>", "images in a batch", batch))
    .addOption(number("--epochs <n>", "passes over the training images for the base", epochs))
    .addOption(number("--steps <n>", "batches of the fine-tune", steps))
    .addOption(number("--digit <d>", "the digit to tune (default: the one with the most wrong counts)"))
    .addOption(
      number(
        "--replay <share>",
        "share of each batch from all digits in the second fine-tune; 0 leaves it out",
        replay,
      ),
    )
    .addOption(number("--seed <n>", "seed of all that is random", seed))
    .addOption(number("--limit <n>", "use at most this many training and as many test images"))
    .addOption(new Option("--device <device>", "where the models run").choices(deviceChoices).default(device))
    .addOption(number("--threads <n>", "threads of the runtime", threads))
    .option(
      "--data <dir>",
      "folder with the four MNIST files (default: LOWRANK_DATA, data/mnist, the cache, a download)",
    )
    .option("--out <dir>", "run folder (default: runs/study-<time>)")
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .action(async (flags: Flags) => {
      const terminal = createTerminal({ quiet: flags.quiet === true, json: flags.json === true });
      const { lr, digit = null, limit = null, data, out, json, quiet, ...rest } = flags;
      const { result } = await withInterrupt((signal) =>
        runStudy(
          { ...rest, learningRate: lr, digit, limit },
          {
            voice: voiceOf(terminal, quiet === true),
            signal,
            ...(data !== undefined && { data }),
            ...(out !== undefined && { out }),
          },
        ),
      );
      if (json) terminal.emit(JSON.stringify(result.summary, null, 2));
    });
}
