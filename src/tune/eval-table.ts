// An evaluation as text: base and adapters side by side, class by class, and the examples that are read otherwise.
import { type Column, formatCount, formatPercent, formatTable } from "../runs/table.ts";
import type { AdapterEvaluation, Evaluated } from "./evaluate.ts";

/** More classes are left to summary.json. */
const mostClasses = 30;

export function formatEvaluation(found: AdapterEvaluation, labels: readonly string[] | null): string {
  const parts = [
    `${formatCount(found.examples)} examples, loss ${found.loss}`,
    overview(found),
    ...classTable(found, labels),
    ...changedTables(found, labels),
  ];
  return parts.join("\n\n");
}

const right = (header: string): Column => ({ header, align: "right" });

function overview({ results, changes }: AdapterEvaluation): string {
  const metrics: [header: string, of: (one: Evaluated) => string | undefined][] = [
    ["loss", ({ loss }) => loss.toFixed(4)],
    ["perplexity", ({ perplexity }) => perplexity?.toFixed(2)],
    ["accuracy", ({ accuracy }) => (accuracy === undefined ? undefined : formatPercent(accuracy, 2))],
    ["mean absolute error", ({ meanAbsoluteError }) => meanAbsoluteError?.toPrecision(4)],
  ];
  const shown = metrics.filter(([, of]) => of(results[0]!) !== undefined);
  const hasChanges = changes.length > 0;
  return formatTable(
    [
      { header: "" },
      ...shown.map(([header]) => right(header)),
      ...(hasChanges ? [right("mended"), right("broken")] : []),
    ],
    results.map((one, at) => {
      const change = changes[at - 1];
      return [
        one.name,
        ...shown.map(([, of]) => of(one)!),
        ...(hasChanges
          ? [change?.mended, change?.broken].map((count) => (count === undefined ? "" : formatCount(count)))
          : []),
      ];
    }),
  );
}

/** How many examples of each class are read rightly. */
function classTable({ results }: AdapterEvaluation, labels: readonly string[] | null): string[] {
  const classes = results[0]!.classes;
  if (classes === undefined || classes.length > mostClasses) return [];
  const rows = classes.map(({ examples }, at) => [
    labels?.[at] ?? String(at),
    formatCount(examples),
    ...results.map((one) => formatCount(one.classes![at]!.right)),
  ]);
  return [
    formatTable([{ header: "class" }, right("examples"), ...results.map(({ name }) => right(`${name} right`))], rows),
  ];
}

const mostExamples = 10;

function changedTables({ changes }: AdapterEvaluation, labels: readonly string[] | null): string[] {
  const name = (at: number): string => labels?.[at] ?? String(at);
  return changes.flatMap((change) => {
    if (change.changed === 0) return [];
    const rows = change.examples
      .slice(0, mostExamples)
      .map(({ index, label, base, adapter }) => [formatCount(index), name(label), name(base), name(adapter)]);
    const more = change.changed > rows.length ? `, the first ${rows.length} of ${formatCount(change.changed)}` : "";
    const table = formatTable([right("example"), { header: "is" }, { header: "base" }, { header: change.name }], rows);
    return [`Read otherwise with ${change.name}${more}:\n${table}`];
  });
}
