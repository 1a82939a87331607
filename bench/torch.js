// PyTorch as contenders of the bench. It runs in processes of its own (bench/torch_worker.py), started with the
// environment that it is fastest with. OMP_WAIT_POLICY=active lets OpenMP's threads spin between parallel regions:
// on an idle machine the fastest choice, on a shared one the slowest; so one process runs with it and one without, and
// each case goes to the faster. Under `active`, libgomp's idle threads spin for minutes, which would halve the speed of
// whoever has the next turn: every process is stopped (SIGSTOP) outside its own turns.

import { fileURLToPath } from "node:url";
import { CAN_STOP, WorkerProcess } from "./worker-process.js";

/** @typedef {import("./harness.js").BenchCase} BenchCase */
/** @typedef {import("./harness.js").Contender} Contender */

/** @typedef {{ threads: number, optimizer: string | null, tried: { threads: number, optimizer: string | null, ms: number }[] }} Choice */

const WORKER = fileURLToPath(new URL("./torch_worker.py", import.meta.url));

// glibc returns large blocks to the system at each free and faults them in again at the next step; keep them instead
// (32 MiB is the highest threshold that it accepts).
const MALLOC = {
  MALLOC_MMAP_THRESHOLD_: String(32 * 2 ** 20),
  MALLOC_TRIM_THRESHOLD_: String(2 ** 30),
  MALLOC_TOP_PAD_: String(64 * 2 ** 20),
};

/** @type {Record<string, Record<string, string>>} where a process cannot be stopped, no thread of it may spin on */
const POLICIES = CAN_STOP ? { active: { OMP_WAIT_POLICY: "active" }, default: {} } : { default: {} };

/**
 * PyTorch's milliseconds as measured for the design: medians of interleaved runs on 2 cores of an AMD EPYC (Zen 4).
 * @type {import("./report.js").Reference}
 */
export const REFERENCE = {
  version: "PyTorch 2.13, measured on 2 cores of an AMD EPYC (Zen 4)",
  gflops: 215,
  ms: {
    "peft (scaled)": {
      "lora b10 r1": 2.24,
      "lora b10 r8": 2.33,
      "lora b64 r1": 5.4,
      "lora b64 r8": 6.0,
      "lora b256 r1": 18.9,
      "lora b256 r8": 17.6,
    },
    "study (scaled)": {
      "lora b10 r1": 5.0,
      "lora b10 r8": 7.0,
      "lora b64 r1": 9.3,
      "lora b64 r8": 11.1,
      "lora b256 r1": 24.5,
      "lora b256 r8": 27.7,
    },
    "adam (scaled)": { "full b10": 8.4, "full b64": 11.4, "full b256": 29.1 },
    "adam-fused (scaled)": { "full b10": 6.1, "full b64": 9.7, "full b256": 27.5 },
    "plain (scaled)": { "forward b1": 0.24, "forward b256": 9.1 },
  },
};

/**
 * The processes, and which of them a contender's case runs in.
 */
class TorchProcesses {
  /** @param {Map<string, WorkerProcess>} byPolicy */
  constructor(byPolicy) {
    this.byPolicy = byPolicy;
    this.preparedCase = "";
    /** @type {Map<string, WorkerProcess>} */
    this.chosen = new Map();
  }

  /**
   * @param {string} contender
   * @param {BenchCase} benchCase
   * @returns {Promise<object>} the settings that were fastest, and all that were tried
   */
  async prepare(contender, benchCase) {
    const key = JSON.stringify(benchCase);
    if (key !== this.preparedCase) {
      for (const one of this.byPolicy.values()) await one.ask({ op: "release" });
      this.preparedCase = key;
    }
    const tried = [];
    for (const [policy, one] of this.byPolicy) {
      /** @type {Choice} */
      const choice = await one.ask({ op: "prepare", contender, case: benchCase });
      tried.push(...choice.tried.map((trial) => ({ policy, ...trial })));
    }
    const best = tried.reduce((a, b) => (b.ms < a.ms ? b : a));
    this.chosen.set(contender, /** @type {WorkerProcess} */ (this.byPolicy.get(best.policy)));
    return { policy: best.policy, threads: best.threads, optimizer: best.optimizer, tried };
  }

  /**
   * @param {string} contender
   * @param {BenchCase} benchCase
   * @param {number} steps
   * @returns {Promise<number[]>}
   */
  async run(contender, benchCase, steps) {
    const one = /** @type {WorkerProcess} */ (this.chosen.get(contender));
    return (await one.ask({ op: "run", contender, case: benchCase, steps })).ms;
  }

  /** @returns {Promise<import("./harness.js").Peak>} */
  async peak() {
    const peaks = [];
    for (const one of this.byPolicy.values()) peaks.push(await one.ask({ op: "peak" }));
    return peaks.reduce((a, b) => (b.gflops > a.gflops ? b : a));
  }

  async close() {
    await Promise.all([...this.byPolicy.values()].map((one) => one.close()));
  }
}

/**
 * @param {TorchProcesses} processes
 * @param {{ torch: string, fusedAdam: boolean }} hello
 * @returns {Contender[]}
 */
function contendersOf(processes, hello) {
  /** @type {[name: string, kind: BenchCase["kind"], what: string][]} */
  const rows = [
    ["peft", "lora", "LoRA as PEFT computes it, base(x) + B(A(x)) * scale"],
    ["study", "lora", "LoRA as the study computes it, W + B A built in each step"],
    ["adam", "full", "all weights, torch.optim.Adam as it comes"],
    ["adam-fused", "full", "all weights, torch.optim.Adam(fused=True)"],
    ["plain", "forward", "inference_mode"],
  ];
  return rows
    .filter(([name]) => name !== "adam-fused" || hello.fusedAdam)
    .map(([name, kind, what], index) => ({
      name,
      version: `PyTorch ${hello.torch}, ${what}`,
      supports: (benchCase) => benchCase.kind === kind,
      prepare: (benchCase) => processes.prepare(name, benchCase),
      run: (benchCase, steps) => processes.run(name, benchCase, steps),
      ...(index === 0 ? { peak: () => processes.peak() } : {}),
      close: () => processes.close(),
    }));
}

/**
 * Looks for PyTorch in `python` (default: LOWRANK_PYTHON, else python3) and starts it where it is.
 * @param {string} [python]
 * @returns {Promise<{ contenders: Contender[], version: string | null, note: string }>} without PyTorch no contenders,
 *   and a note that says so
 */
export async function connectTorch(python = process.env.LOWRANK_PYTHON || "python3") {
  /** @type {Map<string, WorkerProcess>} */
  const byPolicy = new Map();
  let hello;
  for (const [policy, env] of Object.entries(POLICIES)) {
    const environment = { ...MALLOC, ...env, PYTHONDONTWRITEBYTECODE: "1" };
    const one = new WorkerProcess("PyTorch", python, [WORKER], environment);
    byPolicy.set(policy, one);
    hello = await one.receive().catch(() => ({ missing: true }));
    if (hello.missing) {
      await Promise.all([...byPolicy.values()].map((started) => started.close()));
      return {
        contenders: [],
        version: null,
        note: `PyTorch: not found (${python} -c 'import torch' fails): compared with nothing that ran here`,
      };
    }
  }
  const note =
    `PyTorch ${hello.torch} on Python ${hello.python}: of ${hello.threadsTried.join(", ")} threads, OpenMP wait policy ` +
    `${Object.keys(POLICIES).join(" or ")} and Adam's variants the fastest for each case; large malloc thresholds, ` +
    `denormals flushed${hello.fusedAdam ? "" : "; this version has no fused Adam on the CPU"}.`;
  return { contenders: contendersOf(new TorchProcesses(byPolicy), hello), version: hello.torch, note };
}
