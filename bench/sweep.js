// Sweeps by number: 60 short trainings on three workers and a real Redis, with workers and Redis killed in between, against the
// same on one machine; and what a second worker adds. node bench/sweep.js [kill | scale], after a build; prints Markdown.
import { spawn, spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createRandom } from "../dist/node.js";

const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const work = mkdtempSync(join(tmpdir(), "lowrank-sweep-"));
const processes = new Set();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.on("exit", () => {
  for (const child of processes) child.kill("SIGKILL");
  rmSync(work, { recursive: true, force: true });
});

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function start(program, args) {
  const child = spawn(program, args, { cwd: work, stdio: ["ignore", "pipe", "pipe"] });
  processes.add(child);
  child.text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      child.text += text;
    });
  }
  child.ended = new Promise((resolve) => {
    child.on("exit", (code) => {
      processes.delete(child);
      resolve(code);
    });
  });
  return child;
}

const lowrank = (text) => start(process.execPath, [main, ...text.split(" ")]);

async function finish(text) {
  const child = lowrank(text);
  if ((await child.ended) !== 0) throw new Error(child.text);
}

async function startRedis(port) {
  mkdirSync(join(work, "redis"), { recursive: true });
  const args = `--port ${port} --bind 127.0.0.1 --dir redis --appendonly yes --appendfsync always`.split(" ");
  const server = start("redis-server", [...args, "--save", ""]);
  while (spawnSync("redis-cli", ["-p", String(port), "ping"]).status !== 0) await wait(50);
  return server;
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** 60 trainings of `steps` steps of a small network. */
async function prepare(steps, hidden, trials) {
  const random = createRandom(0, "bench");
  const rows = Array.from({ length: 600 }, (_, row) => {
    const label = row % 4;
    return [...Array.from({ length: 32 }, (_, at) => (random.normal() + (at % 4 === label ? 1 : 0)).toFixed(4)), label];
  });
  const header = [...Array.from({ length: 32 }, (_, at) => `x${at}`), "label"];
  writeFileSync(join(work, "rows.csv"), `${[header, ...rows].map((row) => row.join(",")).join("\n")}\n`);
  await finish(`pretrain --layers 32,${hidden},${hidden},4 --data rows.csv --out base --steps 20 --threads 1 --quiet`);
  copyFileSync(join(work, "base", "model.onnx"), join(work, "base.onnx"));
  const config = {
    tune: { model: "base.onnx", data: ["rows.csv"], steps, evalEvery: Math.ceil(steps / 4) },
    search: { type: "random", trials, space: { learningRate: { loguniform: [1e-4, 3e-2] }, r: { integer: [1, 16] } } },
  };
  writeFileSync(join(work, "sweep.json"), JSON.stringify(config));
}

/** Every adapter of a sweep, and its values, as text. */
function content(folder) {
  const files = readdirSync(join(work, folder), { recursive: true }).filter((name) =>
    /adapter_(model|config)/.test(name),
  );
  const adapters = files.sort().map((name) => [name, readFileSync(join(work, folder, name)).toString("base64")]);
  const results = readdirSync(join(work, folder, "results")).sort();
  const values = results.map((name) => JSON.parse(readFileSync(join(work, folder, "results", name), "utf8")).value);
  return JSON.stringify([adapters, results, values]);
}

async function kill() {
  await prepare(400, 64, 60);
  const begun = performance.now();
  await finish("sweep sweep.json --out local --quiet");
  const localSeconds = (performance.now() - begun) / 1000;
  const port = await freePort();
  const place = `--queue redis://127.0.0.1:${port} --store store`;
  let redis = await startRedis(port);
  const workers = [];
  const startWorker = () =>
    workers.push(
      lowrank(`worker ${place} --concurrency 1 --cache cache-${workers.length} --stalled-after 3 --publish-every 0`),
    );
  for (let at = 0; at < 3; at++) startWorker();
  const queued = performance.now();
  const sweep = lowrank(`sweep sweep.json --out queued ${place}`);
  const random = createRandom(Date.now(), "kills");
  const trained = () => {
    const counts = new Map();
    for (const { text } of workers)
      for (const [, id] of text.matchAll(/^(\S+): trained/gm)) counts.set(id, (counts.get(id) ?? 0) + 1);
    return counts;
  };
  let kills = 0;
  let restarts = 0;
  // By what is done, not by the clock: a slow machine is killed as often as a fast one. The moment within a training is random.
  for (let next = 5; processes.has(sweep); ) {
    await Promise.race([sweep.ended, wait(50 + 400 * random.uniform())]);
    if (trained().size < next || !processes.has(sweep)) continue;
    next += 5;
    const alive = workers.filter((worker) => processes.has(worker));
    alive[random.integer(alive.length)].kill("SIGKILL");
    kills++;
    startWorker();
    if (kills % 3 !== 0) continue;
    redis.kill("SIGKILL");
    await redis.ended;
    redis = await startRedis(port);
    restarts++;
  }
  if ((await sweep.ended) !== 0) throw new Error(sweep.text);
  const seconds = (performance.now() - queued) / 1000;
  const twice = [...trained().values()].filter((count) => count > 1).length;
  const same = content("local") === content("queued");
  console.log(
    `| trainings | workers killed | Redis killed | lost | trained twice | same adapters, values and winner | local | queued |`,
  );
  console.log(`|---|---|---|---|---|---|---|---|`);
  const lost = 60 - readdirSync(join(work, "queued", "results")).length;
  console.log(
    `| 60 | ${kills} | ${restarts} | ${lost} | ${twice} | ${same ? "yes" : "NO"} | ${localSeconds.toFixed(1)} s | ${seconds.toFixed(1)} s |`,
  );
}

/** Trainings a second of one worker and of two, one thread each; the time runs from the first job to the last result. */
async function scale() {
  await prepare(5000, 256, 12);
  const times = [];
  const asked = [];
  for (const count of [1, 2]) {
    const port = await freePort();
    const redis = await startRedis(port);
    const place = `--queue redis://127.0.0.1:${port} --store store-${count}`;
    const workers = Array.from({ length: count }, (_, at) =>
      lowrank(`worker ${place} --concurrency 1 --cache cache-${count}-${at}`),
    );
    while (!workers.every(({ text }) => /at a time/.test(text))) await wait(50);
    const begun = performance.now();
    await finish(`sweep sweep.json --out scale-${count} --quiet ${place}`);
    times.push((performance.now() - begun) / 1000);
    const info = spawnSync("redis-cli", ["-p", String(port), "info"], { encoding: "utf8" }).stdout;
    asked.push(Number(/total_commands_processed:(\d+)/.exec(info)[1]) / 12);
    for (const child of [...workers, redis]) child.kill("SIGKILL");
    await Promise.all([...workers, redis].map(({ ended }) => ended));
  }
  const [one, two] = times;
  const trainings = readdirSync(join(work, "scale-1", "results")).map((name) =>
    JSON.parse(readFileSync(join(work, "scale-1", "results", name), "utf8")),
  );
  const bytes = readdirSync(join(work, "store-1", "results")).map(
    (name) => statSync(join(work, "store-1", "results", name)).size,
  );
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  console.log(
    `A training takes ${mean(trainings.map(({ seconds }) => seconds)).toFixed(2)} s; ${asked.map((count) => count.toFixed(0)).join(" and ")} Redis commands (all of the sweep's over its trainings), ${(mean(bytes) / 1024).toFixed(0)} KiB in the store.\n`,
  );
  console.log(`| workers | 12 trainings | trainings an hour | against one |`);
  console.log(`|---|---|---|---|`);
  console.log(`| 1 | ${one.toFixed(1)} s | ${Math.round((12 * 3600) / one)} | 1 |`);
  console.log(`| 2 | ${two.toFixed(1)} s | ${Math.round((12 * 3600) / two)} | ${(one / two).toFixed(2)} |`);
}

const what = process.argv[2] ?? "kill";
await (what === "scale" ? scale() : kill());
process.exit(0);
