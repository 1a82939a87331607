// What a server can be told, with its defaults and bounds.
import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { LowrankError, throwFaults } from "../errors.ts";
import type { Device } from "../runtime/session.ts";
import { isName } from "./names.ts";

export interface ServeOptions {
  /** An .onnx file. */
  readonly model: string;
  /** The folder of the adapters; default: the base alone is served. */
  readonly adapters?: string | null;
  /** What the base is called; default: the file's name without its ending. */
  readonly name?: string;
  readonly host?: string;
  /** 0 takes a free one. */
  readonly port?: number;
  /** Threads that run the model, each with a session of its own and all resident adapters. */
  readonly workers?: number;
  /** Threads of one operator in each worker; default: the cores that are left beside the one that answers HTTP, shared out. */
  readonly threads?: number;
  readonly device?: Device;
  /** Layers that adapters may change; default: those of the adapters that the folder holds at the start. */
  readonly targets?: readonly string[] | string | null;
  /** Rows in a batch. */
  readonly maxBatch?: number;
  /** How long a batch waits to be filled, in milliseconds. */
  readonly maxDelay?: number;
  /** Rows that may wait. */
  readonly maxQueue?: number;
  /** Rows in one request. */
  readonly maxRows?: number;
  /** Seconds within which a request is answered. */
  readonly timeout?: number;
  /** Bytes of a request's body. */
  readonly maxBody?: number;
  /** Bytes that resident adapters take in each worker. */
  readonly memory?: number;
  /** Adapters that are resident. */
  readonly maxResident?: number;
  /** Bytes that an adapter's files have. */
  readonly maxAdapterBytes?: number;
  readonly maxRank?: number;
  /** Sessions for kinds of adapters that need one of their own, the first one included. */
  readonly maxSessions?: number;
  /** Seconds between looks at the files of resident adapters; 0 for never. */
  readonly reload?: number;
  /** Whether clients may load and unload adapters of the folder. */
  readonly allowLoading?: boolean;
  /** Whether clients may send examples and have adapters tuned from them. */
  readonly feedback?: boolean;
  /** Examples that are kept for each adapter. */
  readonly maxExamples?: number;
  /** What clients must send as `Authorization: Bearer …`; default: nothing. */
  readonly apiKey?: string | null;
  /** Further names under which clients reach a server without a key on loopback. */
  readonly allowedHosts?: readonly string[];
  /** Seconds that a stop waits for what was accepted. */
  readonly stopTimeout?: number;
  readonly logLevel?: LogLevel;
}

export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "silent";

export const logLevels: readonly LogLevel[] = ["trace", "debug", "info", "warn", "error", "silent"];

/** With every default filled in. */
export type ServeSettings = Required<ServeOptions>;

/** The defaults that do not depend on the machine or the model. */
export const serveDefaults = {
  host: "127.0.0.1",
  port: 8000,
  workers: 1,
  maxBatch: 64,
  maxDelay: 1,
  maxQueue: 1024,
  maxRows: 1024,
  timeout: 30,
  maxBody: 33_554_432 /* 32 MiB */,
  memory: 1_073_741_824 /* 1 GiB */,
  maxResident: 10_000,
  maxAdapterBytes: 268_435_456 /* 256 MiB */,
  maxRank: 256,
  maxSessions: 4,
  reload: 5,
  maxExamples: 10_000,
  stopTimeout: 20,
} as const;

/**
 * Options with their defaults.
 *
 * @throws LowrankError "config" that lists every one out of bounds.
 */
export function resolveServeOptions(options: ServeOptions): ServeSettings {
  const workers = options.workers ?? serveDefaults.workers;
  const free = Math.max(1, Math.floor((availableParallelism() - 1) / Math.max(1, workers)));
  const settings: ServeSettings = {
    ...serveDefaults,
    adapters: null,
    name: basename(options.model).replace(/\.onnx$/i, ""),
    threads: free,
    device: "cpu",
    targets: null,
    allowLoading: false,
    feedback: false,
    apiKey: null,
    allowedHosts: [],
    logLevel: "info",
    ...options,
  };
  throwFaults("config", "serve", faultsOf(settings));
  return settings;
}

type NumberOption = { [K in keyof ServeSettings]: ServeSettings[K] extends number ? K : never }[keyof ServeSettings];

/** Least and largest value, and whether it is a whole number. */
const bounds: { readonly [K in NumberOption]: readonly [number, number, "whole" | "any"] } = {
  port: [0, 65_535, "whole"],
  workers: [1, 256, "whole"],
  threads: [1, 1024, "whole"],
  maxBatch: [1, 4096, "whole"],
  maxDelay: [0, 1000, "any"],
  maxQueue: [1, 1_000_000, "whole"],
  maxRows: [1, 1_000_000, "whole"],
  timeout: [0.001, 3600, "any"],
  maxBody: [1024, 2 ** 31 - 1, "whole"],
  memory: [1024, Number.MAX_SAFE_INTEGER, "whole"],
  maxResident: [1, 10_000_000, "whole"],
  maxAdapterBytes: [1024, 2 ** 31 - 1, "whole"],
  maxRank: [1, 65_536, "whole"],
  maxSessions: [1, 64, "whole"],
  reload: [0, 86_400, "any"],
  maxExamples: [1, 10_000_000, "whole"],
  stopTimeout: [0, 3600, "any"],
};

function faultsOf(settings: ServeSettings): string[] {
  const faults: string[] = [];
  for (const [name, [least, most, kind]] of Object.entries(bounds)) {
    const value = settings[name as NumberOption];
    const isGood = value >= least && value <= most && (kind === "any" || Number.isInteger(value));
    if (!isGood)
      faults.push(
        `${name}: expected a ${kind === "any" ? "number" : "whole number"} from ${least} to ${most}, got ${value}`,
      );
  }
  if (!isName(settings.name))
    faults.push(`name: expected up to 128 letters, digits, "_", "-" and ".", got ${JSON.stringify(settings.name)}`);
  if (settings.apiKey !== null && !/^[\x21-\x7e]{16,4096}$/.test(settings.apiKey)) {
    faults.push("the API key: expected 16 or more printable ASCII characters without spaces");
  }
  if (!logLevels.includes(settings.logLevel))
    faults.push(`logLevel: expected ${logLevels.join(", ")}, got ${settings.logLevel}`);
  if (settings.feedback && settings.adapters === null) faults.push("feedback: expected a folder of adapters, got none");
  return faults;
}

/** "512", "64KiB", "1.5GiB" as bytes. Throws LowrankError "config" for what is no size. */
export function parseBytes(text: string): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)\s*(|[KMGT]i?B?|B)$/i.exec(text.trim()) ?? [];
  if (number === undefined)
    throw new LowrankError("config", `expected a size such as 512MiB or 2GiB, got ${JSON.stringify(text)}`);
  const power = "KMGT".indexOf(unit.charAt(0).toUpperCase()) + 1;
  const base = /i/i.test(unit) || unit.length === 1 ? 1024 : 1000;
  return Math.round(Number(number) * (unit === "" || /^b$/i.test(unit) ? 1 : base ** power));
}
