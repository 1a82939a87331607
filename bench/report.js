// The bench from its command line to its table and its JSON: what a runner (bench/run.js) calls with its contenders.
// Ratios are of medians, to the first contender. Where a contender is not at hand, milliseconds known from another
// machine can stand in for it, scaled by the two machines' float32 matrix products.

import { writeFile } from "node:fs/promises";
import os from "node:os";
import { parseArgs } from "node:util";
import { copySpeed, floorMs } from "./floor.js";
import { CASES, caseName, measure, selectCases } from "./harness.js";

/** @typedef {import("./harness.js").CaseResult} CaseResult */
/** @typedef {import("./harness.js").Contender} Contender */
/** @typedef {import("./harness.js").Peak} Peak */

/**
 * Milliseconds known from another machine, by contender and case name, and that machine's float32 matrix product:
 * what to compare with, scaled, where the contender itself is not at hand.
 * @typedef {{ version: string, gflops: number, ms: Record<string, Record<string, number>> }} Reference
 */

const BLOCK_MS = 200;
const QUICK_BLOCK_MS = 60;
// Long enough for the runtime's threads to stop spinning before the next contender's turn.
const REST_MS = 150;
const BUSY_WARNING = 0.15;

/**
 * The whole bench: times the contenders (the first is the baseline), prints the table and writes the JSON. Closes the
 * contenders, whatever happens.
 * @param {readonly Contender[]} contenders
 * @param {BenchOptions} options
 * @param {{ notes?: string[], reference?: Reference | null }} [extras] notes are printed under the table and kept in
 *   the JSON; a reference is shown, scaled by the machine's matrix product, beside what was measured
 */
export async function bench(contenders, options, extras = {}) {
  // Without handlers these signals skip the "exit" event, in which stopped processes are ended.
  const onInterrupt = () => process.exit(130);
  const onTerminate = () => process.exit(143);
  process.once("SIGINT", onInterrupt);
  process.once("SIGTERM", onTerminate);
  const say = progressTo(process.stderr);
  try {
    const plan = { rounds: options.rounds, blockMs: options.quick ? QUICK_BLOCK_MS : BLOCK_MS, restMs: REST_MS };
    const peak = await machinePeak(contenders);
    const measured = await measure(contenders, selectCases(options.filter), plan, say);
    if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
    await report(contenders, options, extras, peak, measured);
  } finally {
    await Promise.allSettled(contenders.map((contender) => contender.close()));
    process.off("SIGINT", onInterrupt);
    process.off("SIGTERM", onTerminate);
  }
}

/**
 * Sets each timing's ratio to `baseline`'s median in the same case; null where `baseline` did not run.
 * @param {readonly CaseResult[]} results
 * @param {string} baseline a contender's name
 * @returns {CaseResult[]}
 */
export function withRatios(results, baseline) {
  return results.map((result) => {
    const base = result.timings.find((timing) => timing.contender === baseline);
    const timings = result.timings.map((timing) => ({ ...timing, ratio: base ? timing.median / base.median : null }));
    return { ...result, timings };
  });
}

/**
 * Adds the reference's milliseconds, scaled to a machine whose float32 product runs at `gflops`, as timings of their own.
 * @param {readonly CaseResult[]} results
 * @param {Reference} reference
 * @param {number} gflops
 * @returns {CaseResult[]}
 */
export function withReference(results, reference, gflops) {
  const scale = reference.gflops / gflops;
  return results.map((result) => {
    const known = Object.entries(reference.ms).filter(([, ms]) => ms[result.name] !== undefined);
    const timings = known.map(([contender, ms]) => {
      const scaled = ms[result.name] * scale;
      const settings = { scaledFrom: ms[result.name], by: scale };
      return { contender, settings, median: scaled, q1: scaled, q3: scaled, min: scaled, samples: 0, ratio: null };
    });
    return { ...result, timings: [...result.timings, ...timings] };
  });
}

/**
 * Adds to each case what it cannot do without, in ms, and the fraction of that speed which `baseline` reaches.
 * @param {readonly CaseResult[]} results
 * @param {string} baseline a contender's name
 * @param {{ gflops: number, copyGBs: number }} speed
 */
export function withFloor(results, baseline, speed) {
  return results.map((result) => {
    const floor = floorMs(result.case, speed);
    const base = result.timings.find((timing) => timing.contender === baseline);
    return { ...result, floor, reached: base ? floor / base.median : null };
  });
}

/** @param {number} ms */
function milliseconds(ms) {
  return ms.toFixed(ms < 1 ? 3 : ms < 100 ? 2 : 0);
}

/** @param {number | null} fraction */
function percent(fraction) {
  return fraction === null ? "" : `${Math.round(100 * fraction)} %`;
}

/**
 * A Markdown table: one row a case, one column a contender, `median ms (ratio to the baseline)`.
 * @param {readonly CaseResult[]} results
 * @returns {string}
 */
export function formatTable(results) {
  const names = [...new Set(results.flatMap((result) => result.timings.map((timing) => timing.contender)))];
  const rows = results.map((result) => [
    result.name,
    ...names.map((name) => {
      const timing = result.timings.find((one) => one.contender === name);
      if (timing === undefined) return "";
      const ratio = timing.ratio === null || timing.ratio === 1 ? "" : ` (${timing.ratio.toFixed(2)}x)`;
      return milliseconds(timing.median) + ratio;
    }),
    ...(result.floor === undefined ? [] : [milliseconds(result.floor), percent(result.reached)]),
  ]);
  const hasFloor = results.some(({ floor }) => floor !== undefined);
  const table = [["ms per step", ...names, ...(hasFloor ? ["floor", "reached"] : [])], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const line = (/** @type {string[]} */ cells) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`;
  return [line(table[0]), line(widths.map((width) => "-".repeat(width))), ...table.slice(1).map(line)].join("\n");
}

/**
 * @typedef {object} BenchOptions
 * @property {string} filter
 * @property {number} rounds
 * @property {boolean} quick
 * @property {string} json where the results go
 */

export const USAGE = `npm run bench -- [options]
  --filter WORDS   only the cases with all these words, such as "lora b10" or "full"
  --rounds N       rounds in which the contenders take turns (default 7; with --quick 3)
  --quick          shorter turns, for a first look
  --json FILE      where the results are written (default bench/results.json)`;

/**
 * @param {string[]} argv
 * @returns {BenchOptions}
 * @throws {Error} on an unknown option, a wrong value or a filter that no case passes
 */
export function parseOptions(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      filter: { type: "string", default: "" },
      rounds: { type: "string" },
      quick: { type: "boolean", default: false },
      json: { type: "string", default: "bench/results.json" },
    },
  });
  const rounds = values.rounds === undefined ? (values.quick ? 3 : 7) : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new Error(`--rounds: expected a whole number of at least 1, got ${values.rounds}`);
  }
  if (selectCases(values.filter).length === 0) {
    const names = CASES.map(caseName).join(", ");
    throw new Error(`--filter: expected words of a case's name, got "${values.filter}"; the cases are ${names}`);
  }
  return { filter: values.filter, rounds, quick: values.quick, json: values.json };
}

/** What the numbers depend on. */
function machine() {
  const cpus = os.cpus();
  return {
    cpu: cpus[0]?.model.trim() ?? "unknown",
    cores: cpus.length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
  };
}

/**
 * The fastest float32 product that any contender can show.
 * @param {readonly Contender[]} contenders
 * @returns {Promise<Peak | null>}
 */
async function machinePeak(contenders) {
  let best = null;
  for (const contender of contenders) {
    const peak = await contender.peak?.();
    if (peak !== undefined && (best === null || peak.gflops > best.gflops)) best = peak;
  }
  return best;
}

/** @returns {(text: string) => void} on a terminal one line that changes, else a line for each new case */
function progressTo(/** @type {NodeJS.WriteStream} */ stream) {
  let lastCase = "";
  return (text) => {
    const part = text.split(":")[0];
    if (stream.isTTY) stream.write(`\r\x1b[K${text}`);
    else if (part !== lastCase) stream.write(`${text}\n`);
    lastCase = part;
  };
}

/**
 * Warnings about contenders after whose turns the machine was not idle.
 * @param {Record<string, number>} restBusy
 * @returns {string[]}
 */
export function restWarnings(restBusy) {
  return Object.entries(restBusy)
    .filter(([, busy]) => busy > BUSY_WARNING)
    .map(
      ([name, busy]) =>
        `warning: ${Math.round(100 * busy)} % of the CPU was in use after the turns of ${name}, when nobody should ` +
        "work; another program is running, or its threads spin on: do not trust these numbers",
    );
}

/**
 * @param {readonly Contender[]} contenders
 * @param {BenchOptions} options
 * @param {{ notes?: string[], reference?: Reference | null }} extras
 * @param {Peak | null} peak
 * @param {{ cases: CaseResult[], restBusy: Record<string, number> }} measured
 */
async function report(contenders, options, extras, peak, measured) {
  const { notes = [], reference = null } = extras;
  const compared = reference && peak ? withReference(measured.cases, reference, peak.gflops) : measured.cases;
  const baseline = contenders[0]?.name ?? "";
  const copyGBs = copySpeed();
  const rated = withRatios(compared, baseline);
  const cases = peak ? withFloor(rated, baseline, { gflops: peak.gflops, copyGBs }) : rated;
  const about = machine();
  const lines = [
    formatTable(cases),
    "",
    `Medians over ${options.rounds} interleaved rounds; in brackets the ratio to ${baseline}. Floor: the products that the`,
    `work needs at the speed of the best product below, and for full steps Adam's numbers at that of a copy; reached: of that, by ${baseline}.`,
    `Machine: ${about.cpu}, ${about.cores} cores, Node ${about.node}` +
      (peak ? `; ${peak.product}: ${peak.gflops.toFixed(0)} GFLOP/s; a copy: ${copyGBs.toFixed(0)} GB/s.` : "."),
    ...contenders.map((contender) => `${contender.name}: ${contender.version}`),
    ...(reference && peak
      ? [`${Object.keys(reference.ms).join(", ")}: ${reference.version} on ${reference.gflops} GFLOP/s, scaled.`]
      : []),
    ...notes,
    `CPU in use between turns: ${Object.entries(measured.restBusy)
      .map(([name, busy]) => `${name} ${(100 * busy).toFixed(0)} %`)
      .join(", ")}.`,
    ...restWarnings(measured.restBusy),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const versions = Object.fromEntries(contenders.map((contender) => [contender.name, contender.version]));
  const results = {
    date: new Date().toISOString(),
    machine: about,
    peak,
    copyGBs,
    rounds: options.rounds,
    versions,
    notes,
  };
  await writeFile(options.json, `${JSON.stringify({ ...results, restBusy: measured.restBusy, cases }, null, 2)}\n`);
  process.stdout.write(`Written: ${options.json}\n`);
}
