// A PostgreSQL of the tests' own: a cluster in a folder of its own, on a free port of loopback.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import type { QueueServer } from "./redis.ts";
import { freePort, untilOpen } from "./redis.ts";

/** Starts PostgreSQL; returns why there is none where there is none. */
export async function startPostgres(): Promise<QueueServer | string> {
  const programs = findPrograms();
  if (programs === null) return "PostgreSQL is not installed (no initdb in PATH or /usr/lib/postgresql)";
  const owner = serverUser();
  const folder = mkdtempSync(join(tmpdir(), "lowrank-postgres-"));
  const data = join(folder, "data");
  mkdirSync(data);
  if (owner !== null) for (const path of [folder, data]) chownSync(path, owner.uid, owner.gid);
  const as = { ...owner, cwd: folder };
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const made = spawnSync(join(programs, "initdb"), ["-D", data, "-U", "lowrank", "-A", "trust", "-E", "UTF8"], as);
  if (made.status !== 0) {
    remove();
    return `PostgreSQL's initdb failed: ${made.error?.message ?? made.stderr.toString().trim()}`;
  }
  const port = await freePort();
  const settings = ["-p", String(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="];
  const start = async (): Promise<ChildProcess> => {
    const child = spawn(join(programs, "postgres"), ["-D", data, ...settings], { ...as, stdio: "ignore" });
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
    url: `postgres://lowrank@127.0.0.1:${port}/postgres`,
    async restart() {
      await end("SIGQUIT"); // at once, without a checkpoint: the next start recovers as from a crash
      server = await start();
    },
    async stop() {
      await end("SIGINT");
      remove();
    },
  };
}

/** The folder of initdb and postgres. */
function findPrograms(): string | null {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [
    ...versions.map((version) => join(debian, version, "bin")),
    ...(process.env.PATH ?? "").split(delimiter),
  ];
  return folders.find((path) => ["initdb", "postgres"].every((name) => existsSync(join(path, name)))) ?? null;
}

/** PostgreSQL refuses to run as root: root's tests run it as nobody. */
function serverUser(): { uid: number; gid: number } | null {
  if (process.getuid?.() !== 0) return null;
  const [uid, gid] = ["-u", "-g"].map((what) => Number(spawnSync("id", [what, "nobody"]).stdout.toString()));
  return { uid: uid!, gid: gid! };
}
