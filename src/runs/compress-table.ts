// What compression did to each layer, as text: for `lowrank compress` and the study.
import { formatBytes, formatCount, formatPercent, formatTable } from "./table.ts";

interface Change {
  readonly before: number;
  readonly after: number;
}

/** A layer as src/compress reports it. */
export interface CompressedRow {
  readonly modulePath: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly rank: number | null;
  readonly quantized: string | null;
  readonly reason: string | null;
  readonly parameters: Change;
  readonly bytes: Change;
  readonly operations: Change;
  readonly relativeError: number;
  readonly dataError: number | null;
  /** The whole model when only this layer is compressed, and the original, where that was measured. */
  readonly alone?: { readonly measure: MeasureRow; readonly original: MeasureRow } | null;
}

/** What a model comes to on data. */
export interface MeasureRow {
  readonly loss: number;
  readonly accuracy?: number;
}

/** The model at one stage, as src/tune reports it. */
export interface StepRow {
  readonly name: string;
  readonly bytes: number;
  readonly measure: MeasureRow | null;
}

export interface CompressedSummary {
  readonly layers: readonly CompressedRow[];
  readonly parameters: Change;
  readonly bytes: Change;
}

/** A line for each layer, the whole model, and why layers are whole. */
export function formatCompression({ layers, parameters, bytes }: CompressedSummary): string {
  const hasData = layers.some(({ dataError }) => dataError !== null);
  const measured = layers.flatMap(({ alone }) => alone ?? []);
  const isAccuracy = measured.some(({ measure: { accuracy } }) => accuracy !== undefined);
  const right = (header: string): { header: string; align: "right" } => ({ header, align: "right" });
  const change = ({ before, after }: Change, format: (value: number) => string): string =>
    before === after ? format(before) : `${format(before)} -> ${format(after)}`;
  const rows = layers.map((layer) => [
    layer.modulePath,
    `${layer.inFeatures} -> ${layer.outFeatures}`,
    layer.rank === null ? "-" : String(layer.rank),
    layer.quantized ?? "-",
    change(layer.parameters, formatCount),
    change(layer.bytes, formatBytes),
    change(layer.operations, formatCount),
    formatPercent(layer.relativeError, 2),
    ...(layer.dataError === null ? [] : [formatPercent(layer.dataError, 2)]),
    ...(measured.length === 0 ? [] : [layer.alone ? formatAlone(layer.alone) : "-"]),
  ]);
  const columns = [
    { header: "Layer" },
    { header: "In -> out" },
    right("Rank"),
    { header: "Bits" },
    right("Parameters"),
    right("Bytes"),
    right("Operations"),
    right("Error"),
    ...(hasData ? [right("On data")] : []),
    ...(measured.length === 0 ? [] : [right(isAccuracy ? "Accuracy alone" : "Loss alone")]),
  ];
  const whole = ["the model", "", "", "", change(parameters, formatCount), change(bytes, formatBytes)];
  const left = layers.flatMap(({ modulePath, reason }) => (reason === null ? [] : [`${modulePath}: ${reason}`]));
  const share = bytes.before === 0 ? 1 : bytes.after / bytes.before;
  return [
    formatTable(columns, [...rows, "=", whole]),
    `Weights: ${formatPercent(share)} of the bytes.`,
    ...(left.length === 0 ? [] : ["", ...left]),
  ].join("\n");
}

/**
 * A line for each stage of the work, with what its files take and what it comes to.
 *
 * @param byOriginal whether accuracy is agreement with the original, for want of labels.
 */
export function formatSteps(steps: readonly StepRow[], byOriginal: boolean | null): string {
  const right = (header: string): { header: string; align: "right" } => ({ header, align: "right" });
  const first = steps[0]!;
  const isMeasured = first.measure !== null;
  const hasAccuracy = first.measure?.accuracy !== undefined;
  const rows = steps.map(({ name, bytes, measure }) => [
    name,
    formatCount(bytes),
    formatPercent(bytes / first.bytes),
    ...(measure === null ? [] : [measure.loss.toFixed(4)]),
    ...(measure?.accuracy === undefined ? [] : [formatPercent(measure.accuracy, 2)]),
  ]);
  const columns = [
    { header: "Model" },
    right("File bytes"),
    right("Of the original"),
    ...(isMeasured ? [right("Loss")] : []),
    ...(hasAccuracy ? [right(byOriginal ? "Agreement with the original" : "Accuracy")] : []),
  ];
  return formatTable(columns, rows);
}

/** How far a layer by itself moves the whole: points of accuracy, or the loss. */
function formatAlone({ measure, original }: NonNullable<CompressedRow["alone"]>): string {
  const signed = (value: number, digits: number): string =>
    `${value < 0 ? "-" : "+"}${Math.abs(value).toFixed(digits)}`;
  if (measure.accuracy === undefined) return signed(measure.loss - original.loss, 4);
  return `${signed(100 * (measure.accuracy - original.accuracy!), 2)} points`;
}
