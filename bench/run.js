// npm run bench: every benchmark, or those that are named, one after the other: npm run bench -- [NAME ...] [options of the one named].
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const SUITES = {
  steps: {
    script: "steps.js",
    what: "a LoRA step, a full step and forward on the study's network, beside PyTorch and JavaScript peers",
  },
  gpt2: { script: "gpt2-turns.js", what: "a LoRA step on GPT-2's shape, beside PyTorch + PEFT" },
  sessions: { script: "sessions.js", what: "building training graphs and creating sessions" },
  adapters: { script: "adapters.js", what: "switching adapters, and other adapters for each row" },
  svd: { script: "svd.js", what: "the truncated SVD and PiSSA, beside PyTorch" },
  data: { script: "data.js", what: "what loading data takes of a step" },
  streaming: { script: "streaming.js", what: "memory while a gigabyte of JSON Lines is gone over" },
  "long-run": { script: "long-run.js", flags: ["--expose-gc"], what: "memory and speed over 20,000 steps" },
  prefix: { script: "prefix.js", what: "tuning the head with and without the frozen prefix" },
  memory: { script: "memory.js", what: "estimated and measured memory" },
  playground: { script: "playground.js", what: "the playground in a browser: loading, predicting, training" },
};
const USAGE = `npm run bench -- [NAME ...] [options]\n${Object.entries(SUITES)
  .map(([name, { what }]) => `  ${name.padEnd(10)}${what}`)
  .join(
    "\n",
  )}\nOptions go to the one benchmark that is named; -- NAME --help tells of steps' own. PyTorch is looked for in python3, or
where LOWRANK_PYTHON points; jax-js and TensorFlow.js take part after \`npm ci --prefix bench/peers\`.`;

const given = process.argv.slice(2);
const first = given.findIndex((word) => word.startsWith("-"));
const [named, options] = first < 0 ? [given, []] : [given.slice(0, first), given.slice(first)];
const unknown = named.filter((name) => !(name in SUITES));
if (unknown.length > 0 || (options.length > 0 && named.length !== 1)) {
  const fault =
    unknown.length > 0 ? `no benchmark is called ${unknown.join(", ")}` : "options need one benchmark's name";
  const asked = options.includes("--help");
  (asked ? console.log : console.error)(asked ? USAGE : `bench: ${fault}\n${USAGE}`);
  process.exit(asked ? 0 : 2);
}
let failed = 0;
for (const name of named.length > 0 ? named : Object.keys(SUITES)) {
  const { script, what, flags = [] } = SUITES[name];
  console.log(`\n## ${name}: ${what}\n`);
  const path = fileURLToPath(new URL(script, import.meta.url));
  const { status } = spawnSync(process.execPath, [...flags, path, ...options], { stdio: "inherit" });
  if (status !== 0) failed++;
}
process.exit(failed === 0 ? 0 : 1);
