// Many adapters over one base: node bench/adapters.js [--rounds 40] [--threads 2] [--json FILE] [--filter TEXT]
// The study's network with rank 8 on its three layers. Every case runs a batch of 256 rows (or the size in its name) and is
// set against the same batch through a session of the plain base, right before and right after. Cases take turns in short
// rounds. A share is the median over rounds of base time / case time: over all of them, and over the calm ones, in which the
// base was nearly at its quickest both times, so that nothing else was at work. Memory is that of a fresh process.
import { spawnSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { attachLora, createRandom, createSession, tensor } from "../dist/index.js";
import { studyNetwork } from "../dist/study/network.js";
import { roundOrder, statistics } from "./harness.js";

const config = { r: 8, loraAlpha: 8, targetModules: ["fc1", "fc2", "fc3"] };
const [batch, resident] = [256, 1000];
/** How far over its quickest time the base may be in a calm round. */
const calm = 1.15;
const random = createRandom(1, "bench adapters");

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "40" },
    threads: { type: "string", default: String(availableParallelism()) },
    filter: { type: "string", default: "" },
    json: { type: "string" },
    memory: { type: "string" },
  },
});
const [rounds, threads] = [Number(values.rounds), Number(values.threads)];

if (values.memory === undefined) await time();
else await fill(Number(values.memory));

/** In a process of its own: what loading that many adapters, and running by rows of them, adds. */
async function fill(count) {
  const adapted = attachLora(studyNetwork("linear", 0), config);
  const session = await createSession(adapted, { threads });
  const inputs = { x: floats(batch, 784) };
  await session.run(inputs);
  const before = process.memoryUsage().rss;
  for (let index = 0; index < count; index++) session.load(`a${index}`, randomAdapter(adapted));
  const loaded = process.memoryUsage().rss;
  for (let run = 0; run < 5; run++) await session.run(inputs, { rows: drawNames(batch, count) });
  const { rss } = process.memoryUsage();
  console.log(JSON.stringify({ before, loaded, rss, peak: process.resourceUsage().maxRSS * 1024 }));
  await session.dispose();
}

async function time() {
  const model = studyNetwork("linear", 0);
  const adapted = attachLora(model, config);
  const base = await createSession(model, { threads });
  const session = await createSession(adapted, { threads });
  for (let index = 0; index < resident; index++) session.load(`a${index}`, randomAdapter(adapted));
  const cases = casesOf(session).filter(({ name }) => name.includes(values.filter));
  const samples = new Map(cases.map(({ name }) => [name, []]));
  for (let round = -2; round < rounds; round++) {
    for (const { name, rows, run } of roundOrder(cases, round + 2)) {
      const inputs = { x: floats(rows, 784) };
      const repeats = rows === 1 ? 20 : 2;
      const before = await timed(() => base.run(inputs), repeats);
      const own = await timed(() => run(inputs), repeats);
      const after = await timed(() => base.run(inputs), repeats);
      if (round >= 0) samples.get(name).push({ base: (before + after) / 2, worse: Math.max(before, after), own });
    }
  }
  await Promise.all([base.dispose(), session.dispose()]);
  await report(cases, samples);
}

function casesOf(session) {
  const someone = (count) => `a${random.integer(count)}`;
  const all = drawNames(batch, batch);
  const rows = (name, next) => ({ name, rows: batch, run: (inputs) => session.run(inputs, { rows: next() }) });
  const one = (name, size, next) => ({ name, rows: size, run: (inputs) => session.run(inputs, { adapter: next() }) });
  return [
    one("1 row: none", 1, () => null),
    one("1 row: the same adapter", 1, () => "a0"),
    one("1 row: another adapter each call", 1, () => someone(resident)),
    one("none", batch, () => null),
    one("the same adapter", batch, () => "a0"),
    one("another adapter each call", batch, () => someone(resident)),
    one("a weighted sum of three each call", batch, () =>
      [0.5, 0.3, 0.2].map((weight) => ({ adapter: someone(resident), weight })),
    ),
    rows("8 adapters, rows mixed", () => Array.from({ length: batch }, () => someone(8))),
    rows("256 adapters, rows shuffled", () => shuffled(all)),
    rows("256 of 1,000 adapters, drawn each call", () => drawNames(batch, resident)),
  ];
}

/** `count` different names of the first `among` adapters. */
function drawNames(count, among) {
  return shuffled(Array.from({ length: among }, (_, index) => `a${index}`)).slice(0, count);
}

function shuffled(names) {
  random.shuffle(names);
  return names;
}

async function timed(run, repeats) {
  await run();
  const times = [];
  for (let index = 0; index < repeats; index++) {
    const begun = performance.now();
    await run();
    times.push(performance.now() - begun);
  }
  return statistics(times).median;
}

/** Median base and own time, and the quartiles of their ratio; null without samples. */
function summarize(pairs) {
  if (pairs.length === 0) return null;
  return {
    rounds: pairs.length,
    base: statistics(pairs.map(({ base }) => base)).median,
    own: statistics(pairs.map(({ own }) => own)).median,
    share: statistics(pairs.map(({ base, own }) => base / own)),
  };
}

async function report(cases, samples) {
  const results = cases.map(({ name, rows }) => {
    const pairs = samples.get(name);
    const alike = cases.filter((other) => other.rows === rows).flatMap((other) => samples.get(other.name));
    const quickest = Math.min(...alike.map(({ base }) => base));
    const calmPairs = pairs.filter(({ worse }) => worse <= calm * quickest);
    return { name, all: summarize(pairs), calm: summarize(calmPairs) };
  });
  console.log("| batch of 256 unless it says otherwise | all rounds: base, ms, share | calm rounds: base, ms, share |");
  console.log("|---|---|---|");
  for (const { name, all, calm: quiet } of results) console.log(`| ${name} | ${cell(all)} | ${cell(quiet)} |`);
  const memory = memoryOf(resident);
  const mega = (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`;
  console.log(
    `\n${resident} adapters loaded: ${mega(memory.loaded - memory.before)} more than without; after runs by rows ` +
      `${mega(memory.rss)} for the whole process, ${mega(memory.peak)} at its peak.`,
  );
  if (values.json !== undefined) await writeFile(values.json, JSON.stringify({ threads, rounds, results, memory }));
}

function cell(summary) {
  if (summary === null) return "none";
  const { rounds: count, base, own, share } = summary;
  const [least, middle, most] = [share.q1, share.median, share.q3].map((value) => (100 * value).toFixed(0));
  return `${base.toFixed(2)}, ${own.toFixed(2)}, ${middle} % (${least} to ${most}, ${count} rounds)`;
}

function memoryOf(count) {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), "--memory", String(count)]);
  return JSON.parse(child.stdout.toString());
}

function randomAdapter(adapted) {
  const tensors = adapted.parameters.map(({ key, dims }) => [key, floats(...dims)]);
  return { config: adapted.config, tensors: new Map(tensors) };
}

function floats(...dims) {
  const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
  for (let index = 0; index < data.length; index++) data[index] = 0.1 * (random.uniform() - 0.5);
  return tensor("float32", dims, data);
}
