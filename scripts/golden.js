// Holds lowrank against stored answers of PyTorch and PEFT: `npm run golden -- DIR...` runs every case below the given
// directories and prints a table; with `--device webgpu` (or cuda) on another device than the processor. A case is a folder with a case.json: either model.onnx with the adapter's values beside
// the answers (lora.<module>.lora_A|lora_B), or exports of one model with a PEFT adapter directory.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import {
  attachLora,
  causalLm,
  checkDevice,
  createSession,
  crossEntropy,
  LowrankError,
  meanSquaredError,
  merge,
  readAdapter,
  readModel,
  readSafetensors,
  valueAndGrad,
  withHead,
} from "../dist/index.js";
import { computedInFloat32 } from "../dist/onnx/float32.js";
import { float16ToFloat32 } from "../dist/onnx/half.js";

/** |a - b| <= absolute + relative |b|, for losses, logits and gradients alike. */
export const tolerance = { absolute: 1e-5, relative: 1e-4 };

/**
 * What models in 16 bits are held to: PyTorch's answers from the same weights in float32, within the last bits of the type.
 * Exporters round constants to it too (an attention's scale), which those answers do not.
 */
const typeTolerances = {
  float16: { absolute: 1e-4, relative: 2e-3 },
  bfloat16: { absolute: 1e-4, relative: 2e-3 },
};

/**
 * @typedef {object} GoldenRow
 * @property {string} name the case's folder, with the export's file where there are several
 * @property {"pass" | "fail" | "not run"} verdict
 * @property {string} reason why it failed or could not run; "" when it passed
 * @property {number | undefined} loss the loss's absolute error
 * @property {number | undefined} outputs the outputs' worst error, as a share of the tolerance
 * @property {number | undefined} gradients the gradients' worst error, as a share of the tolerance
 */

/** Every case below `directories`, in order of name. */
export function findCases(directories) {
  const found = [];
  const visit = (directory) => {
    if (existsSync(join(directory, "case.json"))) found.push(directory);
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory()) visit(join(directory, entry.name));
    }
  };
  for (const directory of directories) visit(directory);
  return found.sort();
}

/**
 * Runs every case on a device (see createSession's options); one row for each export. Files that cannot be read fail; a model that cannot be adapted or differentiated
 * is told as such.
 * @returns {Promise<GoldenRow[]>}
 */
export async function runGolden(directories, session = {}) {
  const rows = [];
  for (const directory of findCases(directories)) {
    const spec = JSON.parse(readFileSync(join(directory, "case.json"), "utf8"));
    const exports = spec.exports ?? ["model.onnx"];
    for (const file of exports) {
      const name = directory.split(/[\\/]/).at(-1) + (exports.length > 1 ? `/${file}` : "");
      let files;
      try {
        files = readCase(directory, file, spec);
        rows.push({ name, ...(await runCase(files, spec, session)) });
      } catch (error) {
        if (!(error instanceof LowrankError)) throw error;
        rows.push({ name, verdict: files === undefined ? "fail" : "not run", reason: error.message });
      }
    }
  }
  return rows;
}

function readCase(directory, file, spec) {
  const exported = readModel(readFileSync(join(directory, file)), file);
  const model = spec.head === undefined ? exported : withHead(exported, spec.head);
  const { tensors } = readSafetensors(readFileSync(join(directory, "tensors.safetensors")), "tensors.safetensors");
  const adapter = spec.modules ? inlineAdapter(spec, tensors) : readAdapter(adapterFiles(join(directory, "adapter")));
  return { model, tensors, adapter };
}

async function runCase({ model, tensors, adapter }, spec, session) {
  const adapted = attachLora(model, spec.modules ? configOf(spec) : adapter.config);
  const loaded = spec.modules ? { config: adapted.config, tensors: adapter.tensors } : adapter;
  try {
    const inputs = prefixed(tensors, "input.");
    const batch = { inputs: Object.fromEntries(inputs), labels: tensors.get("labels") };
    const allowed = typeTolerances[spec.type] ?? tolerance;
    const compareOutput = (what, actual, expected) => compare(what, widened(actual), expected, allowed);
    const result = await valueAndGrad(adapted, loaded, batch, lossOf(spec), session);
    const output = result.outputs.values().next().value;
    const checks = [compareOutput("logits", output, tensors.get("logits"))];
    const base = tensors.get("base.logits");
    if (base) checks.push(compareOutput("base logits", await run(adapted, batch.inputs, session, null), base));
    const merged = computedInFloat32(merge(model, loaded));
    checks.push(
      compareOutput(
        "merged logits",
        await run(merged, batch.inputs, session),
        tensors.get("merged.logits") ?? tensors.get("logits"),
      ),
    );
    const expected = spec.modules ? inlineTensors(spec, tensors, "grad") : prefixed(tensors, "grad.");
    const gradients = [...expected].map(([key, value]) =>
      compare(`gradient of ${key}`, result.grads.get(key), value, allowed),
    );
    const loss = compare("loss", { dims: [1], data: [result.loss] }, tensors.get("loss"));
    const failed = [loss, ...checks, ...gradients].filter(({ share }) => !(share <= 1));
    return {
      verdict: failed.length === 0 ? "pass" : "fail",
      reason: failed.map(({ what, share }) => `${what}: ${share.toPrecision(3)} x the tolerance`).join("; "),
      loss: Math.abs(result.loss - Number(tensors.get("loss").data[0])),
      outputs: worst(checks),
      gradients: worst(gradients),
    };
  } finally {
    await adapted.dispose();
  }
}

async function run(model, inputs, options, adapter) {
  const session = await createSession(model, options);
  try {
    return (await session.run(inputs, adapter === undefined ? {} : { adapter })).values().next().value;
  } finally {
    await session.dispose();
  }
}

/** PEFT's key for a part of a module: an Embedding's factors are parameters, those of other kinds are weights. */
function keyOf({ kinds = {} }, module, part) {
  const suffix = kinds[module] === "Embedding" ? part.replace("lora_", "lora_embedding_") : `${part}.weight`;
  return `base_model.model.${module}.${suffix}`;
}

function inlineAdapter(spec, tensors) {
  return { tensors: new Map(inlineTensors(spec, tensors, "lora")) };
}

/** What stands in the case's tensors as `<prefix>.<module>.lora_A|lora_B`, by PEFT's keys. */
function inlineTensors(spec, tensors, prefix) {
  return spec.modules.flatMap((module) =>
    ["lora_A", "lora_B"].map((part) => [keyOf(spec, module, part), tensors.get(`${prefix}.${module}.${part}`)]),
  );
}

function configOf({ modules, r, lora_alpha: loraAlpha }) {
  return { r, loraAlpha, targetModules: modules };
}

function adapterFiles(directory) {
  return new Map(readdirSync(directory).map((name) => [name, readFileSync(join(directory, name))]));
}

function prefixed(tensors, prefix) {
  return [...tensors].flatMap(([key, value]) => (key.startsWith(prefix) ? [[key.slice(prefix.length), value]] : []));
}

function lossOf({ loss, ignore_index: ignoreIndex }) {
  const losses = { cross_entropy: crossEntropy, causal_lm: causalLm, mse: meanSquaredError };
  if (!Object.hasOwn(losses, loss))
    throw new LowrankError("config", `loss ${JSON.stringify(loss)}: known are ${Object.keys(losses).join(", ")}`);
  return losses[loss]({ ignoreIndex });
}

/** An output in 16 bits as floats. */
function widened(output) {
  return output?.type === "float16" ? { ...output, data: float16ToFloat32(output.data) } : output;
}

/** The largest error as a share of what is tolerated: up to 1 passes; anything missing or not finite is infinitely wrong. */
function compare(what, actual, expected, { absolute, relative } = tolerance) {
  if (actual === undefined || actual.data.length !== expected.data.length)
    return { what, share: Number.POSITIVE_INFINITY };
  let share = 0;
  for (let index = 0; index < expected.data.length; index++) {
    const [a, b] = [Number(actual.data[index]), Number(expected.data[index])];
    const error = Math.abs(a - b) / (absolute + relative * Math.abs(b));
    share = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(share, error);
  }
  return { what, share };
}

function worst(checks) {
  return Math.max(...checks.map(({ share }) => share));
}

/** The rows as a table for people. */
export function formatRows(rows) {
  const text = (value) => (value === undefined ? "-" : value.toExponential(1));
  const head = ["case", "loss error", "outputs", "worst gradient", "verdict"];
  const lines = rows.map((row) => [row.name, text(row.loss), text(row.outputs), text(row.gradients), row.verdict]);
  const widths = head.map((title, column) => Math.max(title.length, ...lines.map((line) => line[column].length)));
  const format = (line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column]))
      .join("  ")
      .trimEnd();
  const reasons = rows.filter(({ reason }) => reason !== "").map(({ name, reason }) => `${name}: ${reason}`);
  const note = `outputs and gradients: the largest error as a share of ${tolerance.absolute} + ${tolerance.relative} |b| (of more for 16 bits); 1 is the limit`;
  return [format(head), ...lines.map(format), note, ...reasons].join("\n");
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values, positionals: directories } = parseArgs({
    options: { device: { type: "string", default: "cpu" } },
    allowPositionals: true,
  });
  if (directories.length === 0) {
    console.error("usage: npm run golden -- DIR...");
    process.exit(2);
  }
  const { device } = await checkDevice({ device: values.device }).catch((error) => {
    console.error(`golden: ${error.message}`);
    process.exit(2);
  });
  const missing = directories.filter((directory) => !existsSync(directory));
  if (missing.length > 0) {
    console.error(`golden: no such directory: ${missing.join(", ")}`);
    process.exit(2);
  }
  const rows = await runGolden(directories, { device });
  console.log(formatRows(rows));
  if (rows.length === 0) console.error(`no case.json below ${directories.join(", ")}`);
  process.exitCode = rows.length > 0 && rows.every(({ verdict }) => verdict !== "fail") ? 0 : 1;
}
