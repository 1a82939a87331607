// The torchsummary table as text: for `lowrank summary` and the study.
import type { ModelSummary } from "../onnx/summary.ts";
import { formatCount, formatTable } from "./table.ts";

/** One line for each layer, then the totals. With `lora`, the columns of an adapter of that rank. */
export function formatSummary(summary: ModelSummary, lora?: { r: number }): string {
  const rows = summary.rows.map((row) => {
    const cells = [
      row.name,
      row.outputShape === undefined ? "?" : `[${row.outputShape.join(", ")}]`,
      formatCount(row.parameters),
    ];
    if (lora === undefined) return cells;
    const added = row.lora(lora.r);
    return [...cells, added === 0 ? "" : `+ ${formatCount(added)}`];
  });
  const columns = [
    { header: "Layer (type)" },
    { header: "Output shape" },
    { header: "Param #", align: "right" as const },
    ...(lora === undefined ? [] : [{ header: `LoRA r ${lora.r}`, align: "right" as const }]),
  ];
  const table = formatTable(columns, [...rows, "="]);
  return [table, ...totals(summary), ...(lora === undefined ? [] : loraTotals(summary, lora.r))].join("\n");
}

function totals({ parameters, inputMiB, activationsMiB, parametersMiB }: ModelSummary): string[] {
  const mb = (value: number): string => value.toFixed(2);
  return [
    `Total params: ${formatCount(parameters)}`,
    `Input size (MB): ${mb(inputMiB)}`,
    `Forward/backward pass size (MB): ${mb(activationsMiB)}`,
    `Params size (MB): ${mb(parametersMiB)}`,
    `Estimated total size (MB): ${mb(inputMiB + activationsMiB + parametersMiB)}`,
  ];
}

function loraTotals({ rows, parameters }: ModelSummary, r: number): string[] {
  const added = rows.reduce((sum, row) => sum + row.lora(r), 0);
  const share = parameters === 0 ? 0 : (100 * added) / parameters;
  return [
    `LoRA params: ${formatCount(added)} (${share.toFixed(3)} % of the base)`,
    `Total with LoRA: ${formatCount(parameters + added)}`,
  ];
}
