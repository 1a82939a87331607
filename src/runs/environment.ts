// env.json: what a run's numbers depend on beyond its settings, so that they can be told apart or had again.
// It is meant to be shared: no user name, no host name, no path.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, totalmem } from "node:os";

export interface EnvironmentInput {
  /** Threads of the runtime. */
  threads: number;
  seed: number;
  /** SHA-256 of the data, by file name (no folders). */
  data: Readonly<Record<string, string>>;
  /** Further versions, or better ones than those found here: `{ "onnxruntime-web": "1.30.0" }`. */
  versions?: Readonly<Record<string, string>>;
}

export interface Environment {
  /** lowrank, node, v8, onnxruntime-node (null where it is not installed), and the caller's. */
  versions: Record<string, string | null>;
  platform: string;
  arch: string;
  cpu: string;
  /** Cores that this process may use. */
  cores: number;
  /** Bytes of memory in the machine. */
  memory: number;
  threads: number;
  seed: number;
  data: Record<string, string>;
}

/**
 * The content of env.json.
 *
 * @example
 * await run.writeJson("env.json", environment({ threads: 2, seed: 0, data: sha256 }));
 */
export function environment({ threads, seed, data, versions = {} }: EnvironmentInput): Environment {
  return {
    versions: {
      lowrank: lowrankVersion(),
      node: process.versions.node,
      v8: process.versions.v8,
      "onnxruntime-node": runtimeVersion(),
      ...versions,
    },
    platform: process.platform,
    arch: process.arch,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memory: totalmem(),
    threads,
    seed,
    data: { ...data },
  };
}

/** This package's version, from its package.json (which lies two folders up, in src/ as in dist/). */
export function lowrankVersion(): string {
  const version = versionIn(JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")));
  if (version === null) throw new Error("internal: lowrank's package.json has no version");
  return version;
}

/** The installed version of onnxruntime-node, read without loading it. */
function runtimeVersion(): string | null {
  try {
    return versionIn(createRequire(import.meta.url)("onnxruntime-node/package.json"));
  } catch {
    return null; // an optional dependency: a run on another runtime does without it
  }
}

function versionIn(packageJson: unknown): string | null {
  if (typeof packageJson !== "object" || packageJson === null || !("version" in packageJson)) return null;
  return typeof packageJson.version === "string" ? packageJson.version : null;
}
