// A server under load while its adapters are loaded, unloaded and replaced at random: node bench/serve-soak.js [--seconds 600]
//   [--connections 32] [--names 24] [--json FILE]
// autocannon asks for adapters, and for versions of them, drawn at random; there is room for half of them. Each answer says by
// its digest which content has answered: that content must have lain in the folder for that name and version then, the numbers
// must be those of that content run alone within 1e-4, and further from every other content's. Nothing may be lost: what is
// unloaded is 404, what finds no room is 503 with Retry-After, and all else is an answer. Memory is watched.
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import autocannon from "autocannon";
import { createSession, saveAdapter, saveModel, tensor } from "../dist/node.js";
import { adapted, features, floats, memoryOf, model, random, randomAdapter, startServer } from "./serve-support.js";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "600" },
    connections: { type: "string", default: "32" },
    names: { type: "string", default: "24" },
    json: { type: "string" },
  },
});
const [seconds, connections, names] = ["seconds", "connections", "names"].map((name) => Number(values[name]));
const contents = 2 * names;
const tolerance = 1e-4;
/** Milliseconds after which a replaced content may not answer any more: looking at files, loading, and the request itself. */
const grace = 5000;

const folder = mkdtempSync(join(tmpdir(), "lowrank-soak-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
await saveModel(model, join(folder, "base.onnx"));
await mkdir(join(folder, "adapters"));

const data = floats([features], 1).data;
const adapters = Array.from({ length: contents }, randomAdapter);
const expected = await answersAlone();
const apart = Math.min(...expected.flatMap((a, at) => expected.slice(0, at).map((b) => distance(a, b))));

/** By digest. */
const contentOf = new Map();
/** By place (name and version): the contents that lay there, and when: { content, from, until }. */
const history = new Map();
/** By name: when it was unloaded, and loaded again: { from, until }. */
const absences = new Map();

const places = Array.from({ length: names }, (_, at) => [`a${at}/1`, `a${at}/2`]).flat();
for (const [at, place] of places.entries()) await put(place, at % contents);
const server = await startServer(folder, ["--allow-loading", "--max-resident", String(names), "--reload", "0.2"]);

const counts = { answered: 0, unloaded: 0, later: 0, wrong: 0, worst: 0, loads: 0, unloads: 0, replacements: 0 };
const faults = [];
const memory = [];
const end = performance.now() + seconds * 1000;
const watch = setInterval(
  () => void memoryOf(server).then((one) => memory.push(one)),
  1000 * Math.max(1, seconds / 60),
);
const [load] = await Promise.all([attack(), change()]);
clearInterval(watch);
const metrics = await (await fetch(`${server.url}/metrics`)).text();
await server.stop();
report();

/** Every content's outputs by a session of its own. */
async function answersAlone() {
  const session = await createSession(adapted);
  const inputs = { x: tensor("float32", [1, features], data) };
  const answers = [];
  for (const adapter of adapters) answers.push([...(await session.run(inputs, { adapter })).get("logits").data]);
  await session.dispose();
  return answers;
}

function distance(a, b) {
  return a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at])), 0);
}

/** A content in the place of the one before. Version 1 lies in the adapter's own folder, others beside it. */
async function put(place, content) {
  const path = join(folder, "adapters", place.replace(/\/1$/, ""));
  const from = performance.now();
  const known = history.get(place) ?? [];
  known.push({ content, from, until: Number.POSITIVE_INFINITY });
  history.set(place, known);
  await saveAdapter(path, adapters[content]);
  for (const one of known.slice(0, -1)) one.until = Math.min(one.until, performance.now());
  if (![...contentOf.values()].includes(content)) contentOf.set(await digestOf(path), content);
}

/** As the server says which content has answered. */
async function digestOf(path) {
  const hash = createHash("sha256");
  for (const name of (await readdir(path)).sort()) {
    if (!name.startsWith("adapter_")) continue;
    const bytes = await readFile(join(path, name));
    hash.update(`${name} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest("hex").slice(0, 16);
}

/** autocannon asks, and each answer is looked at. */
function attack() {
  const input = { name: "x", shape: [1, features], datatype: "FP32", data: [...data] };
  const body = JSON.stringify({ inputs: [input] });
  const draw = (request, context) => {
    const name = `a${random.integer(names)}`;
    const version = random.integer(3);
    Object.assign(context, { name, place: `${name}/${version === 0 ? 2 : version}`, asked: performance.now() });
    return { ...request, path: `/v2/models/${name}${version === 0 ? "" : `/versions/${version}`}/infer` };
  };
  return autocannon({
    url: server.url,
    connections,
    duration: seconds,
    requests: [
      {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
        setupRequest: draw,
        onResponse: (status, text, { name, place, asked }, headers) => {
          const fault = faultOf(status, text, headers, { name, place, asked });
          if (fault === null) return;
          counts.wrong++;
          if (faults.length < 10) faults.push(`${place}: ${fault}`);
        },
      },
    ],
  });
}

/** What is wrong with an answer; null when nothing is. */
function faultOf(status, text, headers, { name, place, asked }) {
  const wasThere = ({ from, until }) => from <= performance.now() && until >= asked - grace;
  if (status === 404) {
    counts.unloaded++;
    return (absences.get(name) ?? []).some(wasThere) ? null : `404 for an adapter that is there: ${text}`;
  }
  if (status === 503 || status === 429) {
    counts.later++;
    return Object.keys(headers).some((one) => one.toLowerCase() === "retry-after") ? null : `${status}: ${text}`;
  }
  if (status !== 200) return `${status}: ${text}`;
  counts.answered++;
  const { outputs, model_name: model, model_version: version, parameters } = JSON.parse(text);
  if (`${model}/${version}` !== place) return `${model} ${version} has answered`;
  const content = contentOf.get(parameters.adapter_digest);
  if (!history.get(place).some((one) => one.content === content && wasThere(one)))
    return `content ${content} has answered, which was not there`;
  const own = distance(expected[content], outputs[0].data);
  counts.worst = Math.max(counts.worst, own);
  if (own > tolerance) return `${own} from its content alone`;
  const other = expected.findIndex((one, at) => at !== content && distance(one, outputs[0].data) <= tolerance);
  return other === -1 ? null : `as near to content ${other}`;
}

/** Loads, unloads and replacements at random, some 30 a second. */
async function change() {
  const gone = new Map();
  const tell = (name, verb) => fetch(`${server.url}/v2/repository/models/${name}/${verb}`, { method: "POST" });
  while (performance.now() < end) {
    const name = `a${random.integer(names)}`;
    const kind = random.integer(3);
    if (kind === 0) {
      await put(`${name}/${1 + random.integer(2)}`, random.integer(contents));
      counts.replacements++;
    } else if (gone.has(name)) {
      await tell(name, "load");
      gone.get(name).until = performance.now();
      gone.delete(name);
      counts.loads++;
    } else if (gone.size < names / 6 && kind === 1) {
      const absence = { from: performance.now(), until: Number.POSITIVE_INFINITY };
      gone.set(name, absence);
      absences.set(name, [...(absences.get(name) ?? []), absence]);
      await tell(name, "unload");
      counts.unloads++;
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

function report() {
  const lost = load.errors + load.timeouts;
  const mean = (part) => Math.round(part.reduce((sum, one) => sum + one, 0) / part.length);
  const quarter = Math.ceil(memory.length / 4);
  const [early, late] = [mean(memory.slice(quarter, 2 * quarter)), mean(memory.slice(-quarter))];
  const read = (name) => new RegExp(`^${name} (\\S+)`, "m").exec(metrics)?.[1];
  const { answered, unloaded, later, wrong, worst, loads, unloads, replacements } = counts;
  console.log(
    `${seconds} s: ${answered} answered (${(answered / seconds).toFixed(0)}/s), ${unloaded} unloaded then, ${later} told to come again, ${lost} lost`,
  );
  console.log(`changes: ${loads} loads, ${unloads} unloads, ${replacements} replacements`);
  console.log(
    `${wrong} wrong; furthest from its content alone ${worst.toExponential(1)}; contents are ${apart.toExponential(1)} apart`,
  );
  console.log(
    `adapter loads ${read('lowrank_adapter_loads_total\\{result="loaded"\\}')}, let go ${read("lowrank_adapter_evictions_total")}; p50 ${load.latency.p50} ms, p99 ${load.latency.p99} ms`,
  );
  console.log(`memory: ${early} MiB in the second quarter, ${late} MiB in the last: ${memory.join(" ")}`);
  for (const fault of faults) console.log(fault);
  if (values.json !== undefined)
    writeFileSync(values.json, JSON.stringify({ seconds, ...counts, lost, apart, memory, latency: load.latency }));
  if (wrong + lost > 0 || late > 1.2 * early) process.exitCode = 1;
}
