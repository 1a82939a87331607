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
}

export interface CompressedSummary {
  readonly layers: readonly CompressedRow[];
  readonly parameters: Change;
  readonly bytes: Change;
}

/** A line for each layer, the whole model, and why layers are whole. */
export function formatCompression({ layers, parameters, bytes }: CompressedSummary): string {
  const hasData = layers.some(({ dataError }) => dataError !== null);
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
