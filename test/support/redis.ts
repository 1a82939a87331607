// A Redis of the tests' own: a process on a free port, with its append-only file in a folder that goes with it.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";

/** A server that sweeps can queue on. */
export interface QueueServer {
  readonly url: string;
  /** Ends it without warning, as a power cut would, and starts it again from what it wrote down. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts redis-server, or valkey-server; returns why there is none where there is none. */
export async function startRedis(folder: string): Promise<QueueServer | string> {
  const program = ["redis-server", "valkey-server"].find((name) => spawnSync(name, ["--version"]).status === 0);
  if (program === undefined) return "neither redis-server nor valkey-server is installed";
  const port = await freePort();
  const directory = join(folder, "redis");
  mkdirSync(directory, { recursive: true });
  const start = async (): Promise<ChildProcess> => {
    const settings = ["--port", port, "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "yes"];
    const child = spawn(program, [...settings.map(String), "--appendfsync", "always"], { stdio: "ignore" });
    await untilOpen(port);
    return child;
  };
  let server = await start();
  const end = (signal: NodeJS.Signals): Promise<void> =>
    new Promise((resolve) => {
      server.once("exit", () => resolve());
      server.kill(signal);
    });
  return {
    url: `redis://127.0.0.1:${port}`,
    async restart() {
      await end("SIGKILL");
      server = await start();
    },
    stop: () => end("SIGTERM"),
  };
}

/** A port of this machine that nobody listens on. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** Waits until somebody listens on a port. */
export async function untilOpen(port: number): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const isOpen = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
      socket.once("error", () => resolve(false));
    });
    if (isOpen) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nobody listens on port ${port}`);
}
