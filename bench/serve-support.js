// What the measurements of `lowrank serve` share: the study's network with adapters for it, and a server in its own process.
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { attachLora, createRandom, tensor } from "../dist/node.js";
import { studyNetwork } from "../dist/study/network.js";

export const features = 784;
export const random = createRandom(1, "bench serve");
export const model = studyNetwork("linear", 0);
export const adapted = attachLora(model, { r: 8, loraAlpha: 8, targetModules: ["fc1", "fc2", "fc3"] });
const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

export function randomAdapter() {
  const tensors = adapted.parameters.map(({ key, dims }) => [key, floats(dims, 0.1)]);
  return { config: adapted.config, tensors: new Map(tensors) };
}

export function floats(dims, scale) {
  const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
  for (let at = 0; at < data.length; at++) data[at] = scale * (random.uniform() - 0.5);
  return tensor("float32", dims, data);
}

/** A server without access lines in its log, which would be a share of the work. */
export async function startServer(folder, args) {
  const port = await freePort();
  const command = [main, "serve", join(folder, "base.onnx"), "--adapters", join(folder, "adapters")];
  const child = spawn(
    process.execPath,
    [...command, "--max-queue", "4096", "--port", port, "--log-level", "warn", ...args],
    {
      stdio: ["ignore", "ignore", "inherit"],
    },
  );
  const url = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${url}/v2/health/ready`).catch(() => ({ ok: false }))).ok) {
    if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const stop = () =>
    new Promise((resolve) => {
      child.on("exit", resolve);
      child.kill("SIGTERM");
    });
  return { url, pid: child.pid, stop };
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return String(port);
}

export async function memoryOf({ pid }) {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Math.round(Number(/VmRSS:\s*(\d+)/.exec(status)?.[1] ?? 0) / 1024);
}

/** Seconds of processor time that a server has used; other work on the machine does not count. */
export async function cpuOf({ pid }) {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => ") 0");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / 100;
}
