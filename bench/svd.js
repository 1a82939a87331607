// The truncated SVD, rank 16 of a 1000 x 2000 float32 matrix, and PiSSA's initialisation of the study's network: node bench/svd.js
// [--rounds 5]. Beside PyTorch (bench/svd_torch.py, in python3 or LOWRANK_PYTHON) on the same matrices; one thread each. The error is the
// Frobenius norm of what is missed over the least possible (Eckart and Young 1936), minus one.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { attachLora, createRandom, initAdapter } from "../dist/index.js";
import { denseMap } from "../dist/linalg/linear-map.js";
import { truncatedSvd } from "../dist/linalg/truncated-svd.js";
import { studyNetwork } from "../dist/study/network.js";
import { statistics } from "./harness.js";

const { values } = parseArgs({ options: { rounds: { type: "string", default: "5" } } });
const rounds = Number(values.rounds);
const [rows, columns, rank] = [1000, 2000, 16];
const random = createRandom(1, "bench svd");
const normal = (length) => Float32Array.from({ length }, () => random.normal());

/** Gaussian noise: its largest singular values lie close together, the hardest case. */
const noise = normal(rows * columns);
/** The same with 64 directions that stand out by 1 / k, as trained weights have them. */
const decaying = withDirections(noise, 64);
const matrices = { "singular values that decay": decaying, "pure noise": noise };

function withDirections(base, count) {
  const out = base.map((value) => 0.02 * value);
  for (let k = 1; k <= count; k++) {
    const [u, v] = [normal(rows), normal(columns)];
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[i * columns + j] += (0.1 / k) * u[i] * v[j];
  }
  return out;
}

function timed(work) {
  const times = [];
  let result;
  for (let round = 0; round <= rounds; round++) {
    const begun = performance.now();
    result = work();
    if (round > 0) times.push(performance.now() - begun);
  }
  return { ms: statistics(times).median, result };
}

const squares = (list) => list.reduce((sum, value) => sum + value * value, 0);
const table = [["truncated SVD, rank 16 of 1000 x 2000, one thread", "ms", "error over the best"]];
const folder = mkdtempSync(join(tmpdir(), "lowrank-bench-"));
try {
  for (const [name, matrix] of Object.entries(matrices)) {
    const whole = squares(matrix);
    const exact = timed(() => truncatedSvd(denseMap(rows, columns, matrix), rank));
    const best = Math.sqrt(whole - squares(exact.result.s));
    const quick = timed(() => truncatedSvd(denseMap(rows, columns, matrix), rank, { iterations: 2 }));
    const over = (s) => (Math.sqrt(whole - squares(s)) / best - 1).toExponential(0);
    table.push([`${name}: lowrank, to convergence`, exact.ms.toFixed(0), "0"]);
    table.push([`${name}: lowrank, 2 iterations`, quick.ms.toFixed(0), over(quick.result.s)]);
    const file = join(folder, "matrix.f32");
    writeFileSync(file, matrix);
    const script = fileURLToPath(new URL("./svd_torch.py", import.meta.url));
    const python = process.env.LOWRANK_PYTHON || "python3";
    const { status, stdout, stderr } = spawnSync(python, [script, file, `${rows}`, `${columns}`, `${rank}`], {
      encoding: "utf8",
    });
    if (status === 0)
      for (const line of JSON.parse(stdout)) table.push([`${name}: ${line.name}`, line.ms.toFixed(0), over(line.s)]);
    else table.push([`${name}: PyTorch`, "not measured", (stderr ?? "").trim().split("\n").at(-1) ?? ""]);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const r of [1, 8, 16])
  for (const initLoraWeights of ["pissa", "pissa_niter_4"]) {
    const adapted = attachLora(studyNetwork("linear", 0), { r, targetModules: "all-linear", initLoraWeights });
    const { ms } = timed(() => initAdapter(adapted));
    table.push([`PiSSA of the study's network, r ${r}: ${initLoraWeights}`, ms.toFixed(0), ""]);
  }
for (const [index, cells] of table.entries()) {
  console.log(`| ${cells.join(" | ")} |`);
  if (index === 0) console.log(`|${"---|".repeat(cells.length)}`);
}
