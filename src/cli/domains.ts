// lowrank domains
import { Command, Option } from "commander";
import { deviceChoices } from "../runtime/session.ts";
import { runDomains } from "../study/domains/domains.ts";
import { type DomainOptions, domainDefaults } from "../study/domains/suite.ts";
import { withInterrupt } from "./main-errors.ts";
import { parseNumber } from "./options.ts";
import { createProgress, nullProgress } from "./progress.ts";
import { createTerminal } from "./terminal.ts";

interface Flags extends Omit<DomainOptions, "learningRate" | "limit" | "only"> {
  lr: number;
  limit?: number;
  only?: string;
  data?: string;
  out?: string;
  json?: boolean;
  quiet?: boolean;
}

export function domainsCommand(): Command {
  const { rank, alpha, learningRate, batch, seed, device, threads } = domainDefaults;
  const number = (flags: string, text: string): Option => new Option(flags, text).argParser(parseNumber);
  return new Command("domains")
    .description(
      "Tune one base on many domains (rotations, inverted, thick and thin digits, MNIST-C, single digits), beside other ways of tuning.",
    )
    .option("--only <names>", "domains to run, separated by commas (default: all)")
    .addOption(number("--rank <r>", "rank of A and B").default(rank))
    .addOption(number("--alpha <alpha>", "scale: the update is (alpha / rank) B A").default(alpha))
    .addOption(number("--lr <rate>", "learning rate of Adam for the tuning").default(learningRate))
    .addOption(number("--batch <n>", "images in a batch of the tuning").default(batch))
    .addOption(number("--seed <n>", "seed of all that is random").default(seed))
    .addOption(number("--limit <n>", "use at most this many training and as many test images"))
    .addOption(new Option("--device <device>", "where the models run").choices(deviceChoices).default(device))
    .addOption(number("--threads <n>", "threads: so many domains are tuned side by side").default(threads))
    .option(
      "--data <dir>",
      "folder with the four MNIST files (default: LOWRANK_DATA, data/mnist, the cache, a download)",
    )
    .option("--out <dir>", "run folder; a second call with the same settings goes on (default: runs/domains)")
    .option("--json", "print summary.json to stdout, and nothing else there")
    .option("--quiet", "say nothing but warnings and errors")
    .addHelpText("after", "\nExample:\n  lowrank domains --only rotation:30,invert,fog --limit 6000 --out runs/look")
    .action(async (flags: Flags) => {
      const terminal = createTerminal({ quiet: flags.quiet === true, json: flags.json === true });
      const { lr, limit = null, only, data, out, json, quiet, ...rest } = flags;
      const { summary } = await withInterrupt((signal) =>
        runDomains(
          { ...rest, learningRate: lr, limit, only: only?.split(",") ?? null },
          {
            voice: {
              say: (text) => terminal.say(text),
              heading: (text) => terminal.heading(text),
              warn: (text) => terminal.warn(text),
              progress: (label, total, unit) =>
                quiet ? nullProgress : createProgress({ label, total, ...(unit !== undefined && { unit }) }),
            },
            signal,
            ...(data !== undefined && { data }),
            ...(out !== undefined && { out }),
          },
        ),
      );
      if (json) terminal.emit(JSON.stringify(summary, null, 2));
    });
}
