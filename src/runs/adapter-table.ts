// What `lowrank adapter` prints: the singular values of each update as bars, what an approximation has lost, and how far two
// adapters are apart.
import { type Column, formatTable } from "./table.ts";

/** What the drawing needs of a module; adapter/compare.ts gives it. */
export interface SpectrumRow {
  readonly path: string;
  readonly outFeatures: number;
  readonly inFeatures: number;
  readonly r: number;
  readonly scale: number;
  readonly singularValues: readonly number[];
  readonly norm: number;
  readonly effectiveRank: number;
  readonly rank90: number;
  readonly rank99: number;
}

const right = (header: string): Column => ({ header, align: "right" });

/** Bars of growing height, and what stands for them where a terminal cannot show these. */
const heights = { unicode: [..."▁▂▃▄▅▆▇█"], plain: [..."..::||##"] };

/** More bars than this would push the other columns off the screen. */
const maxBars = 32;

/** A row for each module: its singular values as bars, relative to its largest, and how much of the rank they use. */
export function formatSpectrum(
  modules: readonly SpectrumRow[],
  { unicode = true }: { unicode?: boolean } = {},
): string {
  const rows = modules.map((module) => [
    module.path,
    `${module.outFeatures} x ${module.inFeatures}`,
    String(module.r),
    short(module.scale),
    short(module.norm),
    bars(module.singularValues, unicode ? heights.unicode : heights.plain),
    short(module.singularValues[0] ?? 0),
    module.effectiveRank.toFixed(1),
    `${module.rank90} / ${module.rank99}`,
  ]);
  const columns = [
    ...[{ header: "Module" }, right("Update"), right("r"), right("Scale"), right("Norm")],
    ...[{ header: "Singular values" }, right("Largest"), right("In use"), right("90 / 99 %")],
  ];
  return [formatTable(columns, rows), "", used(modules)].join("\n");
}

function used(modules: readonly SpectrumRow[]): string {
  const [rank, inUse] = modules.reduce(([r, use], module) => [r + module.r, use + module.effectiveRank], [0, 0]);
  const share = rank === 0 ? 0 : (100 * inUse) / rank;
  const largest = Math.max(...modules.map(({ rank99 }) => rank99));
  return [
    `In use: ${inUse.toFixed(1)} of ${rank} ranks (${share.toFixed(0)} %), by the entropy of the singular values.`,
    largest === 0 ? "All updates are zero." : `Rank ${largest} would keep 99 % of the energy of every update.`,
  ].join("\n");
}

/** One bar for each value, or for each run of values where they are many (its largest), in eighths of the largest. */
function bars(values: readonly number[], signs: readonly string[]): string {
  const largest = values[0] ?? 0;
  const step = Math.ceil(values.length / maxBars);
  return values
    .filter((_, index) => index % step === 0)
    .map((value) => (value === 0 ? " " : signs[Math.max(0, Math.ceil((8 * value) / largest) - 1)]))
    .join("");
}

/** A rank and what is lost by it, module by module. */
export interface LossRow {
  readonly path: string;
  readonly r: number;
  readonly relativeError: number;
}

export function formatLosses(modules: readonly LossRow[], relativeError: number): string {
  const rows = modules.map(({ path, r, relativeError: lost }) => [path, String(r), short(lost)]);
  const columns = [{ header: "Module" }, right("r"), right("Relative error")];
  return [formatTable(columns, rows), "", `Relative error over all modules: ${short(relativeError)}`].join("\n");
}

/** What the table of differences needs; adapter/compare.ts gives it. */
export interface Compared {
  readonly distance: number;
  readonly relativeDistance: number;
  readonly cosine: number;
  readonly modules: readonly {
    readonly path: string;
    readonly in: "both" | "a" | "b";
    readonly distance: number;
    readonly relativeDistance: number;
    readonly cosine: number;
    readonly output: { readonly similarity: number } | null;
    readonly input: { readonly similarity: number } | null;
  }[];
}

export function formatComparison({ modules, distance, relativeDistance, cosine }: Compared): string {
  const where = { both: "both", a: "first", b: "second" };
  const rows = modules.map((module) => [
    module.path,
    where[module.in],
    ...[module.distance, module.relativeDistance, module.cosine].map(short),
    ...[module.input, module.output].map((side) => (side === null ? "" : short(side.similarity))),
  ]);
  const columns = [
    ...[{ header: "Module" }, { header: "In" }, right("Distance"), right("Relative"), right("Cosine")],
    ...[right("Inputs shared"), right("Outputs shared")],
  ];
  const total = ["all", "", ...[distance, relativeDistance, cosine].map(short)];
  return formatTable(columns, [...rows, "-", total]);
}

/** Four digits, without exponents where they would be read aloud. */
function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
}
