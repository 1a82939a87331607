// Writes docs/OPERATORS.md, the table of operators and how gradients go through them, from the rule tables of the build:
// `npm run docs:operators`. With --check it writes nothing, and fails when the file is not up to date.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { loweredOperators } from "../dist/grad/lower/table.js";
import { differentiableOperators, gradientRule } from "../dist/grad/table.js";
import { upgradableOpsets } from "../dist/onnx/upgrade/index.js";
import { upgradeRows } from "../dist/onnx/upgrade/table.js";

/** Where the table is. */
export const pagePath = fileURLToPath(new URL("../docs/OPERATORS.md", import.meta.url));

/** @type {Record<string, { since: number[], until?: number, floats: boolean }>} ONNX's own operators */
const standard = JSON.parse(readFileSync(new URL("onnx-operators.json", import.meta.url), "utf8"));

/** The page, as it should be. */
export function operatorsPage() {
  const lowered = new Set(loweredOperators());
  const ruled = new Set(differentiableOperators());
  const contrib = [...new Set([...lowered, ...ruled])].filter((name) => !Object.hasOwn(standard, name));
  const statusOf = (name) => status(name, lowered, ruled);
  const { from, to } = upgradableOpsets;
  const rows = Object.entries(standard).map(([name, entry]) => [name, opsets(entry), statusOf(name), ...form(name)]);
  const differentiable = rows.filter(([, , gradient]) => gradient === yes || gradient === rewritten).length;
  return `# Operators

<!-- Written by scripts/operators.js from the rule tables: npm run docs:operators. Do not edit. -->

How a gradient goes through each operator that may lie between an adapter and a loss. Operators elsewhere in a model are ONNX
Runtime's alone: it may be any that the runtime has. \`lowrank inspect MODEL --target …\` gives the verdict on a model.

- **${yes}**: there is a rule. **${rewritten}**: the operator is written in others first, for the gradient only.
- **${zero}**: the derivative is zero wherever it exists, or no float comes out of it: gradients end there.
- **${no}**: refused by name, with its nodes, when it lies between an adapter and the loss.

Models of operator sets ${from} to ${to} can be trained; those below 18 are written in 18 first, where operators of older forms are
rewritten (the last column says which). An operator of a form that has no successor is refused by name.

## ONNX's own (${differentiable} with a gradient)

${table(["Operator", "Operator sets", "Gradient", "Rewritten"], rows)}

## Others

${table(
  ["Operator", "Gradient"],
  contrib.sort().map((name) => [name, statusOf(name)]),
)}
`;
}

const [yes, rewritten, zero, no] = ["yes", "rewritten", "zero", "no"];

/** Joined in one product that has a rule (grad/lower/dynamic-quantization.ts); other products of integers are refused. */
const joined = new Set(["DynamicQuantizeLinear", "MatMulInteger"]);
const integers = new Set(["ConvInteger", "QLinearConv", "QLinearMatMul"]);

function status(name, lowered, ruled) {
  if (lowered.has(name) || joined.has(name)) return rewritten;
  if (integers.has(name)) return no;
  if (ruled.has(name)) {
    const at = name.lastIndexOf(".");
    return gradientRule(name.slice(0, Math.max(at, 0)), name.slice(at + 1)) === "zero" ? zero : yes;
  }
  if (Object.hasOwn(upgradeRows, name) && standard[name]?.until !== undefined) return rewritten;
  const isConstant = name === "Constant" || name === "RandomNormal" || name === "RandomUniform";
  return isConstant || standard[name]?.floats === false ? zero : no;
}

/** "7-23": the operator sets that have it, among those that can be trained. */
function opsets({ since, until }) {
  const { from, to } = upgradableOpsets;
  return `${Math.max(from, since[0])}-${Math.min(to, until ?? to)}`;
}

function form(name) {
  const row = Object.hasOwn(upgradeRows, name) ? upgradeRows[name] : undefined;
  return [row === undefined ? "" : `below ${row.since}`];
}

/** Markdown, with columns aligned. */
function table(headers, rows) {
  const widths = headers.map((header, column) => Math.max(header.length, ...rows.map((row) => row[column].length)));
  const line = (cells) => `| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(headers), rule, ...rows.map(line)].join("\n");
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const page = operatorsPage();
  if (!process.argv.includes("--check")) {
    writeFileSync(pagePath, page);
    process.stdout.write(`wrote ${pagePath}\n`);
  } else if (readFileSync(pagePath, "utf8") !== page) {
    process.stderr.write("docs/OPERATORS.md is not up to date: run npm run docs:operators\n");
    process.exitCode = 1;
  }
}
