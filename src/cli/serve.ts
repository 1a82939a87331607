// lowrank serve
import { readFile } from "node:fs/promises";
import { Command, InvalidArgumentError, Option } from "commander";
import { LowrankError } from "../errors.ts";
import { fileError } from "../runs/file-error.ts";
import { devices } from "../runtime/session.ts";
import { logLevels, parseBytes, type ServeOptions, serveDefaults } from "../serve/options.ts";
import { startServer } from "../serve/server.ts";
import { collect, parseNumber, parseTargets, targetsHelp } from "./options.ts";

interface Flags extends Omit<ServeOptions, "model" | "targets" | "apiKey" | "allowedHosts"> {
  target?: readonly string[];
  apiKeyFile?: string;
  allowHost?: readonly string[];
}

export function serveCommand(): Command {
  const d = serveDefaults;
  const number = (flags: string, text: string): Option => new Option(flags, text).argParser(parseNumber);
  const bytes = (flags: string, text: string): Option => new Option(flags, text).argParser(asBytes);
  return new Command("serve")
    .description(
      "Serve a model and a folder of adapters over HTTP: Open Inference Protocol v2, Triton's and vLLM's names.",
    )
    .argument("<model>", "an .onnx file")
    .option("--adapters <dir>", "folder with an adapter in each subfolder (PEFT, mlx-lm) or .onnx_adapter file")
    .option("--name <name>", "what the base is called (default: the file's name)")
    .option("--host <address>", "address to listen on", d.host)
    .addOption(number("--port <n>", "port to listen on; 0 takes a free one").default(d.port))
    .option("--api-key-file <file>", "file with the key that clients must send (default: LOWRANK_API_KEY, else none)")
    .option(
      "--allow-host <name>",
      "a further Host that a server without a key answers to on loopback; may be repeated",
      collect,
    )
    .option("--allow-loading", "let clients load and unload adapters of the folder")
    .option("--feedback", "let clients send labelled examples and have adapters tuned from them")
    .addOption(number("--max-examples <n>", "examples that are kept for each adapter").default(d.maxExamples))
    .addOption(
      number("--workers <n>", "threads that run the model, each with the base and all resident adapters").default(
        d.workers,
      ),
    )
    .addOption(
      number("--threads <n>", "threads of one operator in each worker (default: all cores but one, shared out)"),
    )
    .addOption(new Option("--device <device>", "where the model runs").choices(devices.filter((one) => one !== "wasm")))
    .option("--target <modules>", `${targetsHelp} (default: those of the adapters in the folder)`, collect)
    .addOption(number("--max-batch <rows>", "rows in one run of the model").default(d.maxBatch))
    .addOption(number("--max-delay <ms>", "how long a batch waits to be filled").default(d.maxDelay))
    .addOption(number("--max-queue <rows>", "rows that may wait; more are answered with 429").default(d.maxQueue))
    .addOption(number("--max-rows <n>", "rows in one request").default(d.maxRows))
    .addOption(bytes("--max-body <size>", "bytes of one request").default(d.maxBody, "32MiB"))
    .addOption(number("--timeout <s>", "seconds within which a request is answered").default(d.timeout))
    .addOption(bytes("--memory <size>", "what resident adapters may take, in each worker").default(d.memory, "1GiB"))
    .addOption(number("--max-resident <n>", "adapters in memory at once").default(d.maxResident))
    .addOption(bytes("--max-adapter-size <size>", "bytes of one adapter's files").default(d.maxAdapterBytes, "256MiB"))
    .addOption(number("--max-rank <r>", "rank of an adapter").default(d.maxRank))
    .addOption(
      number(
        "--max-sessions <n>",
        "sessions for kinds of adapters that cannot share one (DoRA, saved modules)",
      ).default(d.maxSessions),
    )
    .addOption(number("--reload <s>", "seconds between looks for changed files; 0 for never").default(d.reload))
    .addOption(number("--stop-timeout <s>", "seconds that a stop waits for what was accepted").default(d.stopTimeout))
    .addOption(
      new Option("--log-level <level>", "what goes to stdout, as JSON lines").choices(logLevels).default("info"),
    )
    .addHelpText(
      "after",
      "\nExample:\n  lowrank serve model.onnx --adapters adapters --port 8000\n  curl localhost:8000/v2/models/poet/infer -H 'Content-Type: application/json' -d '{\"inputs\": […]}'",
    )
    .action(async (model: string, flags: Flags & { maxAdapterSize: number }) => {
      const { target, apiKeyFile, allowHost, maxAdapterSize, ...rest } = flags;
      const server = await startServer({
        ...rest,
        model,
        maxAdapterBytes: maxAdapterSize,
        apiKey: await readKey(apiKeyFile),
        ...(target !== undefined && { targets: parseTargets(target) }),
        ...(allowHost !== undefined && { allowedHosts: allowHost }),
      });
      await untilStopped();
      await server.stop();
    });
}

function asBytes(text: string): number {
  try {
    return parseBytes(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof LowrankError ? error.message : String(error));
  }
}

/** The key from its file, or from the environment. */
async function readKey(file: string | undefined): Promise<string | null> {
  if (file === undefined) return process.env.LOWRANK_API_KEY || null;
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw fileError(file, "read", error);
  });
  return text.trim();
}

/** Resolves on Ctrl-C or SIGTERM; a second one ends the process at once. */
function untilStopped(): Promise<void> {
  return new Promise((resolve) => {
    let isStopping = false;
    const stop = (): void => {
      if (isStopping) process.exit(130);
      isStopping = true;
      resolve();
    };
    process.on("SIGINT", stop);
    process.on("SIGTERM", stop);
  });
}
