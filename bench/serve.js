// Serving many adapters over one base: node bench/serve.js [--adapters 1000] [--seconds 8] [--rounds 3] [--connections 64]
//   [--batch 64] [--binary] [--json FILE]
// The study's network, rank 8 on its three layers. A server (its own process) has all adapters resident; wrk, or autocannon
// where there is none, asks it on loopback, one row in a request: of the base alone, of an adapter drawn at random from all,
// in turn. Then requests come at half the rate that adapters reached, which gives the latency. --seconds 0 writes the adapters
// of --folder and ends.
// serve-soak.js is the load while adapters come and go.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { saveAdapter, saveModel } from "../dist/node.js";
import { statistics } from "./harness.js";
import { cpuOf, features, floats, memoryOf, model, random, randomAdapter, startServer } from "./serve-support.js";

const { values } = parseArgs({
  options: {
    adapters: { type: "string", default: "1000" },
    seconds: { type: "string", default: "8" },
    rounds: { type: "string", default: "3" },
    connections: { type: "string", default: "64" },
    batch: { type: "string", default: "64" },
    delay: { type: "string", default: "1" },
    binary: { type: "boolean", default: false },
    json: { type: "string" },
    tool: { type: "string" },
    folder: { type: "string" },
  },
});
const [count, seconds, rounds, connections] = ["adapters", "seconds", "rounds", "connections"].map((name) =>
  Number(values[name]),
);

// Writing a thousand adapters takes longer than timing them: --folder keeps them for the next time.
const folder = values.folder ?? mkdtempSync(join(tmpdir(), "lowrank-bench-serve-"));
process.on("exit", () => values.folder === undefined && rmSync(folder, { recursive: true, force: true }));
await saveModel(model, join(folder, "base.onnx"));
mkdirSync(join(folder, "adapters"), { recursive: true });

const shared = payload();
await time();

async function time() {
  await saveAll(count);
  if (seconds === 0) return;
  const bounds = ["--max-batch", values.batch, "--max-delay", values.delay, "--max-resident", String(count + 10)];
  const server = await startServer(folder, bounds);
  try {
    await warmUp(server.url);
    const before = await memoryOf(server);
    const samples = { base: [], adapters: [] };
    for (let round = 0; round < rounds; round++) {
      for (const what of round % 2 === 0 ? ["base", "adapters"] : ["adapters", "base"]) {
        const cpu = await cpuOf(server);
        const sample = await saturate(server.url, what);
        samples[what].push({ ...sample, cpu: (1000 * ((await cpuOf(server)) - cpu)) / (sample.rate * seconds) });
      }
    }
    const rate = (what) => statistics(samples[what].map((one) => one.rate)).median;
    const cpu = (what) => statistics(samples[what].map((one) => one.cpu)).median;
    const half = await atHalf(server.url, rate("adapters") / 2);
    const batch = await meanBatch(server.url);
    const result = {
      adapters: count,
      connections,
      binary: values.binary,
      base: rate("base"),
      withAdapters: rate("adapters"),
      share: rate("adapters") / rate("base"),
      cpu: { base: cpu("base"), withAdapters: cpu("adapters") },
      half,
      batch,
      samples,
      memory: { before, after: await memoryOf(server) },
    };
    report(result);
    if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(result, null, 2));
  } finally {
    await server.stop();
  }
}

function report({ base, withAdapters, share, cpu, half, batch, memory }) {
  console.log(`base alone:            ${base.toFixed(0)} requests/s`);
  console.log(
    `${count} adapters:         ${withAdapters.toFixed(0)} requests/s, ${(100 * share).toFixed(0)} % of it; ${batch.toFixed(1)} rows in a batch on the whole`,
  );
  console.log(
    `processor time of the server: ${cpu.base.toFixed(3)} ms a request, with adapters ${cpu.withAdapters.toFixed(3)}`,
  );
  console.log(
    `at half of that (${half.rate.toFixed(0)}/s): median ${half.median.toFixed(1)} ms, p99 ${half.p99.toFixed(1)} ms, ${half.failed} failed`,
  );
  console.log(`memory: ${memory.before} MiB with all resident, ${memory.after} MiB after`);
}

async function saveAll(number) {
  for (let at = 0; at < number; at++)
    if (!existsSync(join(folder, "adapters", `a${at}`)))
      await saveAdapter(join(folder, "adapters", `a${at}`), randomAdapter());
}

/** Every adapter asked once, so that all are resident, and a second of the base. */
async function warmUp(url) {
  const agent = new Agent({ keepAlive: true, maxSockets: 16 });
  for (let at = 0; at < count; at += 16) {
    const names = Array.from({ length: Math.min(16, count - at) }, (_, index) => `a${at + index}`);
    await Promise.all(names.map((name) => ask(url, name, agent)));
  }
  agent.destroy();
  await saturate(url, "base", 1);
  await saturate(url, "adapters", 1);
}

/** A request's head and body for one row. */
function payload() {
  const x = floats([features], 1).data.map((one) => Math.round(one * 256) / 256);
  const input = { name: "x", shape: [1, features], datatype: "FP32" };
  if (!values.binary)
    return {
      headers: { "content-type": "application/json" },
      body: Buffer.from(JSON.stringify({ inputs: [{ ...input, data: [...x] }] })),
    };
  const head = Buffer.from(JSON.stringify({ inputs: [{ ...input, parameters: { binary_data_size: features * 4 } }] }));
  return {
    headers: { "content-type": "application/octet-stream", "inference-header-content-length": String(head.length) },
    body: Buffer.concat([head, Buffer.from(x.buffer)]),
  };
}

function loadTool() {
  const hasWrk = spawnSync("wrk", ["-v"]).error === undefined;
  return values.tool ?? (hasWrk ? "wrk" : "autocannon");
}

/** Half of a rate: the load tool's own, or requests that come whether those before are answered or not. */
async function atHalf(url, rate) {
  return loadTool() === "wrk" ? withWrk(url, "adapters", seconds, rate) : atRate(url, rate, seconds);
}

/** Requests a second that a load tool gets answered when each connection asks again as soon as it has its answer. */
async function saturate(url, what, duration = seconds) {
  return loadTool() === "wrk" ? withWrk(url, what, duration) : withAutocannon(url, what, duration);
}

async function withWrk(url, what, duration, rate = null) {
  const { headers, body } = payload();
  const file = join(folder, "body");
  writeFileSync(file, body);
  const path =
    what === "base" ? '"/v2/models/base/infer"' : `"/v2/models/a" .. math.random(0, ${count - 1}) .. "/infer"`;
  const script = join(folder, "load.lua");
  const lines = [
    `local f = io.open(${JSON.stringify(file)}, "rb"); local body = f:read("*a"); f:close()`,
    `local headers = {${Object.entries(headers).map(([name, value]) => `["${name}"] = "${value}"`)}}`,
    `request = function() return wrk.format("POST", ${path}, headers, body) end`,
    // Each connection pauses between its requests, for a time of its own drawing.
    ...(rate === null
      ? []
      : [`delay = function() return math.random(0, ${Math.round((2000 * connections) / rate)}) end`]),
  ];
  writeFileSync(script, lines.join("\n"));
  const command = ["-t1", `-c${connections}`, `-d${duration}s`, "--timeout", "10s", "--latency", "-s", script, url];
  const child = spawn("wrk", command);
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (part) => {
    text += part;
  });
  await new Promise((resolve) => child.on("close", resolve));
  const failed = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0);
  if (failed > 0 || /Socket errors/.test(text)) throw new Error(`requests failed:\n${text}`);
  const quantile = (share) => milliseconds(new RegExp(`^\\s*${share}%\\s+(\\S+)`, "m").exec(text)[1]);
  return {
    rate: Number(/Requests\/sec:\s*([\d.]+)/.exec(text)[1]),
    median: quantile(50),
    p99: quantile(99),
    failed,
  };
}

/** "1.25ms", "830.00us", "1.02s" */
function milliseconds(text) {
  const value = Number.parseFloat(text);
  return text.endsWith("us") ? value / 1000 : text.endsWith("ms") ? value : 1000 * value;
}

async function withAutocannon(url, what, duration) {
  const { default: autocannon } = await import("autocannon");
  const { headers, body } = payload();
  const path = () => (what === "base" ? "/v2/models/base/infer" : `/v2/models/a${random.integer(count)}/infer`);
  // Drawn as they are sent: a list would be built for each connection, which takes longer than a connection waits.
  const setupRequest = (one) => ({ ...one, path: path() });
  const requests = [{ method: "POST", headers, body, setupRequest }];
  const result = await autocannon({ url, connections, duration, requests });
  const { errors, timeouts, non2xx, statusCodeStats } = result;
  if (errors + non2xx > 0)
    throw new Error(`${what}: ${errors} errors, ${timeouts} of them timeouts; ${JSON.stringify(statusCodeStats)}`);
  return { rate: result.requests.average, p99: `${result.latency.p99}ms` };
}

/** Requests that come at a rate of their own, whether those before are answered or not, and how long each took. */
async function atRate(url, rate, duration) {
  const agent = new Agent({ keepAlive: true, maxSockets: 512 });
  const latencies = [];
  let failed = 0;
  const begun = performance.now();
  const asked = [];
  for (let sent = 0; sent < rate * duration; ) {
    const due = Math.floor(((performance.now() - begun) / 1000) * rate);
    for (; sent < due; sent++) {
      const at = performance.now();
      asked.push(
        ask(url, `a${random.integer(count)}`, agent).then(({ status }) => {
          latencies.push(performance.now() - at);
          if (status !== 200) failed++;
        }),
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(asked);
  agent.destroy();
  latencies.sort((a, b) => a - b);
  const quantile = (share) => latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))];
  return {
    rate,
    requests: latencies.length,
    failed,
    median: quantile(0.5),
    p99: quantile(0.99),
    max: latencies.at(-1),
  };
}

function ask(url, name, agent, { headers, body } = shared) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const asked = request(
      {
        hostname,
        port,
        agent,
        method: "POST",
        path: `/v2/models/${name}/infer`,
        headers: { ...headers, "content-length": body.length },
      },
      (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("end", () => resolve({ status: response.statusCode, text: Buffer.concat(parts).toString() }));
      },
    );
    asked.on("error", reject);
    asked.end(body);
  });
}

async function meanBatch(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const read = (name) => Number(new RegExp(`^${name} (\\S+)`, "m").exec(text)[1]);
  return read("lowrank_batch_rows_sum") / read("lowrank_batch_rows_count");
}
