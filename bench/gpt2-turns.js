// GPT-2's shape, lowrank and PyTorch + PEFT in turn: node bench/gpt2-turns.js [--rounds 3] [--layers 12] [--vocabulary 50257] [--batch 4]
// [--tokens 128] [--steps 5]. Each turn is a process of its own (bench/gpt2.js, bench/gpt2_torch.py): peak memory is theirs, and a slow
// minute of the machine meets all. PyTorch takes turns with OpenMP's threads spinning and not: on a quiet machine the one is the faster, on
// a busy one the other. The floor is the products of a step at the speed of the machine's best product, measured before and after.
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gpt2Operations } from "./floor.js";
import { roundOrder, statistics } from "./harness.js";
import { peak } from "./lowrank.js";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    layers: { type: "string", default: "12" },
    vocabulary: { type: "string", default: "50257" },
    batch: { type: "string", default: "4" },
    tokens: { type: "string", default: "128" },
    steps: { type: "string", default: "5" },
  },
});
const { rounds, steps, ...shape } = Object.fromEntries(
  Object.entries(values).map(([name, value]) => [name, Number(value)]),
);
const options = Object.entries({ ...shape, steps }).flatMap(([name, value]) => [`--${name}`, String(value)]);
const at = (name) => fileURLToPath(new URL(name, import.meta.url));
const python = process.env.LOWRANK_PYTHON || "python3";
// Large blocks stay in the process: what PyTorch is fastest with.
const malloc = { MALLOC_MMAP_THRESHOLD_: "1000000000", MALLOC_TRIM_THRESHOLD_: "2000000000" };
const own = { command: process.execPath, env: {} };
const torch = { command: python, args: [at("gpt2_torch.py"), ...options] };
const sides = [
  { ...own, name: "lowrank", args: [at("gpt2.js"), ...options] },
  { ...own, name: "lowrank, the top layer only", args: [at("gpt2.js"), ...options, "--top"], top: true },
  { ...torch, name: "PyTorch + PEFT, threads spin", env: { ...malloc, OMP_WAIT_POLICY: "active" } },
  { ...torch, name: "PyTorch + PEFT, threads sleep", env: { ...malloc, OMP_WAIT_POLICY: "passive" } },
].map((side) => ({ ...side, seconds: [], peaks: [], builds: [], sessions: [], fault: "" }));

const threads = availableParallelism();
const before = await peak(threads);
for (let round = 0; round < rounds; round++) for (const side of roundOrder(sides, round)) takeTurn(side);
const after = await peak(threads);
report(after.gflops > before.gflops ? after : before);

/** Runs one side once, and keeps what it prints. */
function takeTurn(side) {
  if (side.fault !== "") return;
  const env = { ...process.env, ...side.env };
  const { error, status, stdout, stderr } = spawnSync(side.command, side.args, { env, encoding: "utf8" });
  const found = stdout?.match(/median ([\d.]+) s; peak memory ([\d.]+) GiB/);
  if (status !== 0 || !found) {
    side.fault = error?.message ?? ((stderr ?? "").trim().split("\n").at(-1) || `ended with ${status}`);
    return;
  }
  side.seconds.push(Number(found[1]));
  side.peaks.push(Number(found[2]));
  const session = stdout.match(/built in (\d+) ms\nsession: ([\d.]+) s/);
  if (session) {
    side.builds.push(Number(session[1]));
    side.sessions.push(Number(session[2]));
  }
}

function report({ gflops, product }) {
  const median = (list) => (list.length > 0 ? statistics(list).median : Number.NaN);
  const given = Object.entries(shape).map(([name, value]) => `${name} ${value}`);
  console.log(
    `| GPT-2's shape: ${given.join(", ")} | seconds a step, by round | median | floor | reached | peak, GiB | graph, ms | session, s |`,
  );
  console.log("|---|---|---|---|---|---|---|---|");
  for (const { name, seconds, peaks, builds, sessions, fault, top = false } of sides) {
    if (seconds.length === 0) console.log(`| ${name} | not measured: ${fault} | | | | | | |`);
    else {
      const floor = gpt2Operations({ ...shape, top }) / gflops / 1e9;
      const reached = `${Math.round((100 * floor) / median(seconds))} %`;
      const starts = builds.length > 0 ? [median(builds).toFixed(0), median(sessions).toFixed(2)] : ["", ""];
      const cells = [name, seconds.join(", "), median(seconds).toFixed(2), floor.toFixed(2), reached];
      console.log(`| ${[...cells, Math.max(...peaks).toFixed(2), ...starts].join(" | ")} |`);
    }
  }
  const [all, top, ...others] = sides.map(({ seconds }) => median(seconds));
  const best = Math.min(...others.filter(Number.isFinite));
  console.log(
    `\nThe top layer only takes ${(top / all).toFixed(2)} of all layers' time.` +
      `${Number.isFinite(best) ? ` lowrank takes ${(all / best).toFixed(2)} of PyTorch's time at the faster of its settings.` : ""}` +
      ` Floor: the products at ${gflops.toFixed(0)} GFLOP/s (${product}, ${threads} threads).`,
  );
}
