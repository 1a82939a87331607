// The bench's harness: times contenders on the same work in interleaved rounds, so that whatever else the machine does
// meets all of them alike (bench/report.js makes a table and JSON of what it finds). One contender works at a time. The
// others must then leave the CPU alone: bench/torch.js stops its processes, ONNX Runtime's threads spin only briefly.
// The harness checks that: after each turn it rests for a moment and measures how busy the machine is meanwhile.

import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Work to time on the study's network, 784-1000-2000-10. A `lora` step is forward, loss, backward and Adam on A and B;
 * a `full` step the same on all weights; `forward` inference only.
 * @typedef {{ kind: "lora", batch: number, r: number } | { kind: "full" | "forward", batch: number }} BenchCase
 */

/**
 * Somebody who can do the work.
 * @typedef {object} Contender
 * @property {string} name short: it heads a column
 * @property {string} version what is timed, with its version
 * @property {(benchCase: BenchCase) => boolean} supports
 * @property {(benchCase: BenchCase) => Promise<object>} prepare gets ready, and drops what an earlier case needed;
 *   returns the settings in use (threads and the like), which go into the report
 * @property {(benchCase: BenchCase, steps: number) => Promise<number[]>} run milliseconds of each of `steps` steps of
 *   the case prepared last; when it resolves, none of the contender's threads may go on using the CPU
 * @property {() => Promise<Peak>} [peak] the machine's float32 matrix product as this contender can show it
 * @property {() => Promise<void>} close
 */

/** @typedef {{ gflops: number, product: string, threads?: number }} Peak */

/** @typedef {{ median: number, q1: number, q3: number, min: number, samples: number }} Statistics */
/** @typedef {Statistics & { contender: string, settings: object, ratio: number | null }} Timing */
/** @typedef {{ name: string, case: BenchCase, timings: Timing[] }} CaseResult */

/** @typedef {{ rounds: number, blockMs: number, restMs: number }} Plan */

const LORA_BATCHES = [10, 64, 256];
const LORA_RANKS = [1, 8];
const FULL_BATCHES = [10, 64, 256];
const FORWARD_BATCHES = [1, 10, 64, 256];

/** @type {readonly BenchCase[]} */
export const CASES = [
  ...LORA_BATCHES.flatMap((batch) => LORA_RANKS.map((r) => ({ kind: /** @type {const} */ ("lora"), batch, r }))),
  ...FULL_BATCHES.map((batch) => ({ kind: /** @type {const} */ ("full"), batch })),
  ...FORWARD_BATCHES.map((batch) => ({ kind: /** @type {const} */ ("forward"), batch })),
];

/**
 * `lora b10 r1`, `full b64`, `forward b256`.
 * @param {BenchCase} benchCase
 * @returns {string}
 */
export function caseName(benchCase) {
  const name = `${benchCase.kind} b${benchCase.batch}`;
  return benchCase.kind === "lora" ? `${name} r${benchCase.r}` : name;
}

/**
 * The cases whose name has every word of `filter` as a word or as the start of one: "lora b10", "full", "r8".
 * @param {string} filter
 * @returns {BenchCase[]}
 */
export function selectCases(filter) {
  const wanted = filter.split(/\s+/).filter((word) => word !== "");
  return CASES.filter((benchCase) => {
    const words = caseName(benchCase).split(" ");
    return wanted.every((want) =>
      words.some((word) => word === want || (/^[a-z]+$/.test(want) && word.startsWith(want))),
    );
  });
}

/**
 * Quartiles by linear interpolation between the sorted samples.
 * @param {readonly number[]} samples at least one
 * @returns {Statistics}
 */
export function statistics(samples) {
  const sorted = [...samples].sort((a, b) => a - b);
  const quantile = (/** @type {number} */ q) => {
    const place = (sorted.length - 1) * q;
    const below = sorted[Math.floor(place)];
    return below + (sorted[Math.ceil(place)] - below) * (place % 1);
  };
  return { median: quantile(0.5), q1: quantile(0.25), q3: quantile(0.75), min: sorted[0], samples: sorted.length };
}

/**
 * `items` in the order of round `round`: each round another one begins, and every other round runs backwards, so that
 * each meets each neighbour on either side.
 * @template T
 * @param {readonly T[]} items
 * @param {number} round
 * @returns {T[]}
 */
export function roundOrder(items, round) {
  const start = items.length === 0 ? 0 : Math.floor(round / 2) % items.length;
  const turned = [...items.slice(start), ...items.slice(0, start)];
  return round % 2 === 0 ? turned : turned.reverse();
}

/**
 * Steps of a block that lasts about `blockMs`, and the lead steps in front of it that are not counted: they bring
 * caches and threads back after the others' turns.
 * @param {number} stepMs
 * @param {number} blockMs
 * @returns {{ lead: number, steps: number }}
 */
export function blockSize(stepMs, blockMs) {
  const steps = Math.min(2000, Math.max(5, Math.round(blockMs / stepMs)));
  return { lead: Math.min(50, Math.max(2, Math.ceil(steps / 5))), steps };
}

/** CPU time of the whole machine so far, in ms summed over its cores. */
function cpuTimes() {
  const sum = { busy: 0, total: 0 };
  for (const { times } of os.cpus()) {
    const busy = times.user + times.nice + times.sys + times.irq;
    sum.busy += busy;
    sum.total += busy + times.idle;
  }
  return sum;
}

/** How busy the machine was while everybody rested, by who had the turn before. */
class RestMeter {
  constructor() {
    /** @type {Map<string, { busy: number, total: number }>} */
    this.sums = new Map();
  }

  /**
   * @param {string} contender
   * @param {number} restMs
   */
  async rest(contender, restMs) {
    const before = cpuTimes();
    await sleep(restMs);
    const after = cpuTimes();
    const sum = this.sums.get(contender) ?? { busy: 0, total: 0 };
    sum.busy += after.busy - before.busy;
    sum.total += after.total - before.total;
    this.sums.set(contender, sum);
  }

  /** @returns {Record<string, number>} fractions of all cores, 0 to 1 */
  fractions() {
    return Object.fromEntries([...this.sums].map(([name, { busy, total }]) => [name, total === 0 ? 0 : busy / total]));
  }
}

/**
 * Times the contenders that support `benchCase`, in rounds; the first of them is the baseline of the ratios.
 * @param {readonly Contender[]} contenders
 * @param {BenchCase} benchCase
 * @param {Plan} plan
 * @param {RestMeter} meter
 * @param {(text: string) => void} say
 * @returns {Promise<CaseResult>}
 */
async function measureCase(contenders, benchCase, plan, meter, say) {
  const name = caseName(benchCase);
  const entries = [];
  for (const contender of contenders.filter((one) => one.supports(benchCase))) {
    say(`${name}: ${contender.name} gets ready`);
    const settings = await contender.prepare(benchCase);
    // The first steps build buffers and pick kernels; a second, longer run shows what a step takes.
    await contender.run(benchCase, 5);
    const { median } = statistics(await contender.run(benchCase, 10));
    const block = blockSize(median, plan.blockMs);
    await contender.run(benchCase, block.lead + block.steps);
    entries.push({ contender, settings, block, samples: /** @type {number[]} */ ([]) });
  }
  for (let round = 0; round < plan.rounds; round++) {
    say(`${name}: round ${round + 1} of ${plan.rounds}`);
    for (const { contender, block, samples } of roundOrder(entries, round)) {
      const times = await contender.run(benchCase, block.lead + block.steps);
      samples.push(...times.slice(block.lead));
      await meter.rest(contender.name, plan.restMs);
    }
  }
  const timings = entries.map(({ contender, settings, samples }) => ({
    contender: contender.name,
    settings,
    ...statistics(samples),
    ratio: /** @type {number | null} */ (null),
  }));
  return { name, case: benchCase, timings };
}

/**
 * Times every contender on every case that it supports.
 * @param {readonly Contender[]} contenders
 * @param {readonly BenchCase[]} cases
 * @param {Plan} plan
 * @param {(text: string) => void} [say] told of the progress
 * @returns {Promise<{ cases: CaseResult[], restBusy: Record<string, number> }>} restBusy: the fraction of the machine
 *   in use right after each contender's turns; well above 0, either it spins on, or another program runs
 */
export async function measure(contenders, cases, plan, say = () => {}) {
  const meter = new RestMeter();
  const results = [];
  for (const [index, benchCase] of cases.entries()) {
    const tell = (/** @type {string} */ text) => say(`[${index + 1}/${cases.length}] ${text}`);
    const result = await measureCase(contenders, benchCase, plan, meter, tell);
    results.push(result);
    // What is known already is worth having when a long run is stopped before its table.
    const medians = result.timings.map(({ contender, median }) => `${contender} ${median.toFixed(2)}`);
    tell(`${result.name} done: ${medians.join(", ")}`);
  }
  return { cases: results, restBusy: meter.fractions() };
}
