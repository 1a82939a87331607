// The `lowrank` command as a user starts it: the built file, a process of its own, nothing of this machine's settings.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { root } from "./folders.ts";

export interface Ended {
  /** null when a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  /** What has been written so far. */
  readonly soFar: { stdout: string; stderr: string };
}

export interface StartOptions {
  /** The working directory: a temporary folder. */
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
}

const main = join(root, "dist", "cli", "main.js");

/** Runs `lowrank ...args` to its end. */
export function lowrank(args: readonly string[], options: StartOptions): Promise<Ended> {
  return start(main, args, options).ended;
}

/** Starts `lowrank ...args` and leaves it running. */
export function startLowrank(args: readonly string[], options: StartOptions): Running {
  return start(main, args, options);
}

/** Runs a script of this project, or JavaScript from the command line (`-e`), with Node. */
export function node(args: readonly string[], options: StartOptions): Promise<Ended> {
  const [script = "", ...rest] = args;
  return start(script, rest, options).ended;
}

/** Starts a script of this project with Node and leaves it running. */
export function startNode(args: readonly string[], options: StartOptions): Running {
  const [script = "", ...rest] = args;
  return start(script, rest, options);
}

function start(script: string, args: readonly string[], { cwd, env = {} }: StartOptions): Running {
  if (!existsSync(main)) throw new Error("dist/ is not there: run `npm run build` first");
  const child = spawn(process.execPath, [script, ...args], {
    cwd,
    env: { ...plainEnvironment(cwd), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const soFar = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    soFar.stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    soFar.stderr += text;
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...soFar }));
  });
  return { process: child, ended, soFar };
}

/** This process's environment without what would steer the command; home and cache are the working directory's. */
function plainEnvironment(cwd: string): Record<string, string> {
  const steering = /^(LOWRANK_|ORT_|NODE_|VITEST|FORCE_COLOR|NO_COLOR|CLICOLOR|XDG_|npm_)/i;
  const kept = Object.entries(process.env).filter(([name]) => !steering.test(name)) as [string, string][];
  return { ...Object.fromEntries(kept), HOME: cwd, XDG_CACHE_HOME: join(cwd, "cache") };
}

/** Waits until `condition` holds; throws what is known when it does not within `seconds`. */
export async function until(condition: () => boolean, running: Running, seconds = 60): Promise<void> {
  const deadline = performance.now() + 1000 * seconds;
  while (!condition()) {
    if (running.process.exitCode !== null || performance.now() > deadline) {
      running.process.kill("SIGKILL");
      throw new Error(`what was waited for did not come\n${running.soFar.stdout}\n${running.soFar.stderr}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
