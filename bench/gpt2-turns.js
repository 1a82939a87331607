// GPT-2's shape, lowrank and PyTorch + PEFT in turn: node bench/gpt2-turns.js [--rounds 3] [further options go to both sides]. Each turn
// is a process of its own (bench/gpt2.js, bench/gpt2_torch.py): peak memory is theirs, and a slow minute of the machine meets both.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { statistics } from "./harness.js";

const at = (name) => fileURLToPath(new URL(name, import.meta.url));
const given = process.argv.slice(2);
const where = given.indexOf("--rounds");
const rounds = where < 0 ? 3 : Number(given.splice(where, 2)[1]);
const python = process.env.LOWRANK_PYTHON || "python3";
// What PyTorch is fastest with: OpenMP's threads spin, and large blocks stay in the process.
const tuned = {
  OMP_WAIT_POLICY: "active",
  MALLOC_MMAP_THRESHOLD_: "1000000000",
  MALLOC_TRIM_THRESHOLD_: "2000000000",
};
const sides = [
  { name: "lowrank", command: process.execPath, script: at("gpt2.js"), env: {} },
  { name: "PyTorch + PEFT", command: python, script: at("gpt2_torch.py"), env: tuned },
].map((side) => ({ ...side, seconds: [], peaks: [] }));

for (let round = 0; round < rounds; round++)
  for (const side of round % 2 === 0 ? sides : [...sides].reverse()) {
    const env = { ...process.env, ...side.env };
    const { status, stdout, stderr } = spawnSync(side.command, [side.script, ...given], { env, encoding: "utf8" });
    const found = stdout?.match(/median ([\d.]+) s; peak memory ([\d.]+) GiB/);
    if (status !== 0 || !found) {
      side.fault = (stderr ?? "").trim().split("\n").at(-1) || `ended with ${status}`;
      continue;
    }
    side.seconds.push(Number(found[1]));
    side.peaks.push(Number(found[2]));
  }

console.log(
  `| GPT-2's shape${given.length > 0 ? ` (${given.join(" ")})` : ""} | seconds a step, by round | median | peak, GiB |`,
);
console.log("|---|---|---|---|");
for (const { name, seconds, peaks, fault } of sides) {
  if (seconds.length === 0) console.log(`| ${name} | not measured: ${fault} | | |`);
  else {
    const median = statistics(seconds).median;
    console.log(`| ${name} | ${seconds.join(", ")} | ${median.toFixed(2)} | ${Math.max(...peaks).toFixed(2)} |`);
  }
}
const [own, other] = sides.map(({ seconds }) => (seconds.length > 0 ? statistics(seconds).median : Number.NaN));
if (Number.isFinite(own / other)) console.log(`\nlowrank takes ${(own / other).toFixed(2)} of PyTorch's time.`);
