// What `lowrank inspect` and `lowrank gradcheck` print: a model's inputs, operators and sites, the verdict on a configuration,
// and gradients beside their differences.
import { type Column, formatCount, formatTable } from "./table.ts";

type Sizes = readonly (number | string | null)[] | null;

/** What the tables need of a model; train/support.ts gives it. */
export interface Inspected {
  readonly opset: number;
  readonly producer: string;
  readonly parameters: number;
  readonly inputs: readonly { readonly name: string; readonly type: string | null; readonly shape: Sizes }[];
  readonly outputs: Inspected["inputs"];
  readonly operators: readonly { readonly operator: string; readonly count: number; readonly gradient: string }[];
  readonly sites: readonly {
    readonly modulePath: string;
    readonly operator: string;
    readonly shape: Sizes;
    readonly parameters: number;
    readonly foldedNorm: boolean;
  }[];
  readonly verdict?: {
    readonly trainable: boolean;
    readonly targets: readonly string[];
    readonly parameters: number;
    readonly obstacles: readonly { readonly operator: string; readonly nodes: readonly string[] }[];
    readonly faults: readonly string[];
  };
}

/** What the table of gradients needs; train/gradcheck.ts gives it. */
export interface CheckedGradients {
  readonly rows: readonly {
    readonly key: string;
    readonly analytic: number;
    readonly numeric: number;
    readonly error: number;
  }[];
  readonly precision: string;
  readonly withoutRounding: boolean;
  readonly tolerance: number;
  readonly passed: boolean;
}

const right = (header: string): Column => ({ header, align: "right" });

/** How a gradient goes through an operator, in words. */
const statusWords: Readonly<Record<string, string>> = {
  rule: "yes",
  lowered: "yes, rewritten",
  zero: "zero",
  none: "no",
};

/** The whole answer of `lowrank inspect`: sections of tables, and the verdict last where there is one. */
export function formatInspection(model: Inspected, file: string): string {
  const { inputs, outputs, operators, sites, verdict } = model;
  const made = model.producer === "" ? "" : `, made by ${model.producer}`;
  const about = `${file}: operator set ${model.opset}${made}, ${formatCount(model.parameters)} parameters`;
  const sections = [
    about,
    valuesTable(inputs, outputs),
    formatTable(
      [{ header: "Operator" }, right("Count"), { header: "Gradient" }],
      operators.map(({ operator, count, gradient }) => [operator, String(count), statusWords[gradient] ?? gradient]),
    ),
    sites.length === 0 ? "No layer that can be adapted." : sitesTable(sites, verdict?.targets),
    ...(verdict === undefined ? [] : [formatVerdict(verdict)]),
  ];
  return sections.join("\n\n");
}

function valuesTable(inputs: Inspected["inputs"], outputs: Inspected["outputs"]): string {
  const row =
    (role: string) =>
    ({ name, type, shape }: Inspected["inputs"][number]) => [role, name, type ?? "no tensor", formatSizes(shape)];
  const columns = [{ header: "" }, { header: "Name" }, { header: "Type" }, { header: "Shape" }];
  return formatTable(columns, [...inputs.map(row("input")), ...outputs.map(row("output"))]);
}

function sitesTable(sites: Inspected["sites"], targets: readonly string[] | undefined): string {
  const chosen = new Set(targets);
  const columns = [{ header: "Module" }, { header: "Operator" }, { header: "Weight" }, right("Param #")];
  const rows = sites.map(({ modulePath, operator, shape, parameters }) => {
    const cells = [modulePath, operator, formatSizes(shape), formatCount(parameters)];
    return targets === undefined ? cells : [...cells, chosen.has(modulePath) ? "target" : ""];
  });
  const table = formatTable(targets === undefined ? columns : [...columns, { header: "" }], rows);
  const folded = sites.filter(({ foldedNorm }) => foldedNorm).map(({ modulePath }) => modulePath);
  return folded.length === 0 ? table : `${table}\n\n${foldedNote(folded)}`;
}

/** What a BatchNorm that an exporter folded into layers means for adapters of the model before that. */
export function foldedNote(paths: readonly string[]): string {
  const some = paths.slice(0, 5).join(", ") + (paths.length > 5 ? `, and ${paths.length - 5} more` : "");
  return (
    `A BatchNorm is folded into the weights of ${some}. Adapters trained on this file fit; one that was trained where the ` +
    "BatchNorm stood apart lacks its factor there. Export with the BatchNorm kept apart to use such a one."
  );
}

function formatVerdict({
  trainable,
  targets,
  parameters,
  obstacles,
  faults,
}: NonNullable<Inspected["verdict"]>): string {
  if (trainable) {
    const layers = targets.length === 1 ? "1 layer" : `${targets.length} layers`;
    return `Trainable: ${formatCount(parameters)} parameters in ${layers}.`;
  }
  const nodes = obstacles.map(({ operator, nodes }) => `  ${operator}: ${nodes.join(", ")}`);
  const all = nodes.length === 0 ? [] : ["In the way:", ...nodes];
  return ["Not trainable:", ...faults.map((fault) => `  - ${fault}`), ...all].join("\n");
}

/** One line for each parameter, then the verdict. */
export function formatGradcheck({ rows, precision, withoutRounding, tolerance, passed }: CheckedGradients): string {
  const cells = rows.map(({ key, analytic, numeric, error }) => [
    key.replace(/^base_model\.model\./, ""),
    analytic.toExponential(5),
    numeric.toExponential(5),
    error.toExponential(1),
    error <= tolerance ? "" : "differs",
  ]);
  const columns = [{ header: "Parameter" }, right("Gradient"), right("Difference"), right("Error"), { header: "" }];
  const within = rows.filter(({ error }) => error <= tolerance).length;
  const verdict = `${passed ? "Passed" : "Failed"}: ${within} of ${rows.length} gradients within ${tolerance} of ${precision} differences.`;
  const rounding = withoutRounding
    ? "\nActivations are quantized: checked without that rounding, through which gradients go straight."
    : "";
  const isFlat = rows.every(({ analytic, numeric }) => analytic === 0 && numeric === 0);
  const hint = isFlat ? "\nAll of them are zero here, which shows little: try other inputs or another seed." : "";
  return `${formatTable(columns, cells)}\n\n${verdict}${rounding}${hint}`;
}

function formatSizes(shape: Sizes): string {
  return shape === null ? "?" : `[${shape.map((dim) => dim ?? "?").join(", ")}]`;
}
