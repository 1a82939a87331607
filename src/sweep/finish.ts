// The end of a sweep, the same for both ways of running: the winning adapter copied out (of a fleet, every row's), summary.json,
// and report.html. It is made of what lies in the folder, so it can be made again.
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { readFileChecked, writeFolderAtomic } from "../runs/files.ts";
import { readRun } from "../runs/run-record.ts";
import { metricOf, type SweepFolder, trialPath } from "./folder.ts";
import { renderSweepReport } from "./report.ts";
import { type Standing, standingName, standingsOf } from "./standings.ts";

export interface SweepSummary {
  readonly version: 1;
  readonly verb: "sweep";
  readonly id: string;
  readonly kind: string;
  readonly complete: boolean;
  readonly trials: number;
  readonly failed: number;
  readonly metric: string | null;
  /** The best trial of a search, and where its adapter is. */
  readonly winner: {
    readonly name: string;
    readonly id: string;
    readonly value: number;
    readonly adapter: string;
  } | null;
  /** Of a fleet: the folder with the adapters, by the names of the rows; null where none came to its end. */
  readonly adapters: string | null;
  readonly standings: readonly Standing[];
  /** As `lowrank runs` reads them. */
  readonly best: { readonly metric: string; readonly value: number } | null;
  readonly steps: number;
  readonly started: string;
  /** From beginning, or going on, to end. */
  readonly seconds: number;
}

/** Curves that one chart can hold and a reader tell apart. */
const mostCurves = 6;

/** Writes what a finished sweep leaves. */
export async function finishSweep(folder: SweepFolder, begun: Date): Promise<SweepSummary> {
  const { plan, results, run, path } = folder;
  const standings = standingsOf(plan, results);
  const metric = metricOf(plan, results);
  const [best] = standings;
  const hasWinner = plan.kind !== "fleet" && best?.state === "complete" && best.value !== null && metric !== null;
  if (hasWinner) await copyAdapter(folder, best, "winner");
  await copyFleet(folder, plan.kind === "fleet" ? standings : []);
  const summary: SweepSummary = {
    version: 1,
    verb: "sweep",
    id: plan.id,
    kind: plan.kind,
    complete: true,
    trials: standings.length,
    failed: standings.filter(({ state }) => state === "failed").length,
    metric,
    winner: hasWinner ? { name: standingName(best), id: best.id, value: best.value!, adapter: "winner" } : null,
    adapters: plan.kind === "fleet" && standings.some(({ state }) => state === "complete") ? "adapters" : null,
    standings,
    best: hasWinner ? { metric, value: best.value! } : null,
    steps: standings.reduce((sum, { steps }) => sum + steps, 0),
    started: begun.toISOString(),
    seconds: (Date.now() - begun.getTime()) / 1000,
  };
  await run.writeJson("summary.json", summary);
  const shown = standings.filter(({ state, id }) => state === "complete" && existsSync(trialPath(path, id)));
  const runs = await Promise.all(
    shown
      .slice(0, mostCurves)
      .map(async (one) => ({ name: standingName(one), run: await readRun(trialPath(path, one.id)) })),
  );
  const seconds = standings.reduce((sum, standing) => sum + standing.seconds, 0);
  await run.write("report.html", renderSweepReport({ plan, standings, metric, seconds, runs }));
  return summary;
}

/** An adapter for each row that has one; those of rows that are gone, or have failed since, go. */
async function copyFleet(folder: SweepFolder, standings: readonly Standing[]): Promise<void> {
  const adapters = join(folder.path, "adapters");
  const complete = standings.filter(({ state }) => state === "complete");
  if (complete.length === 0) return rm(adapters, { recursive: true, force: true });
  folder.run.note("adapters");
  await mkdir(adapters, { recursive: true });
  const names = new Set(complete.flatMap((standing) => standing.names));
  for (const name of await readdir(adapters)) {
    if (!names.has(name)) await rm(join(adapters, name), { recursive: true, force: true });
  }
  for (const standing of complete) {
    for (const name of standing.names) await copyAdapter(folder, standing, join("adapters", name));
  }
}

/** The adapter of the best evaluation; where nothing was evaluated, the last. */
async function copyAdapter(folder: SweepFolder, { id }: Standing, to: string): Promise<void> {
  const trial = trialPath(folder.path, id);
  const from = existsSync(join(trial, "best")) ? join(trial, "best") : join(trial, "adapter");
  const files = new Map<string, Uint8Array>();
  for (const name of (await readdir(from)).sort()) {
    if (!name.startsWith(".")) files.set(name, await readFileChecked(join(from, name)));
  }
  if (!to.includes("/") && !to.includes("\\")) folder.run.note(to);
  await writeFolderAtomic(join(folder.path, to), files);
}
