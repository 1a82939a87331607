// What the commands do, from a program: look before training, train all weights of a small network, tune an adapter for it on
// other data, measure both, answer new rows. Files in a folder of their own stand for yours. node examples/verbs.js [folder]
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRandom, dryRun, readRun, resolveOptions, runEval, runPredict, runPretrain, runTune } from "lowrank";

const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), "lowrank-verbs-"));
mkdirSync(folder, { recursive: true });
const at = (name) => join(folder, name);

/** Rows of two numbers; the label says in which half of the plane they lie. */
function writeRows(name, count, [right, left], tilt) {
  const random = createRandom(3, name);
  const rows = Array.from({ length: count }, () => {
    const [x, y] = [random.normal(), random.normal()];
    return `${x},${y},${x + tilt * y > 0 ? right : left}`;
  });
  writeFileSync(at(name), ["a,b,label", ...rows].join("\n"));
  return at(name);
}
const [first, second] = [
  writeRows("first.csv", 600, ["east", "west"], 0),
  writeRows("second.csv", 600, ["east", "west"], 1),
];
const fresh = writeRows("fresh.csv", 200, ["east", "west"], 1);

// Options are those of the command line, as text or as values; a configuration file may stand behind them (parseConfigFile).
const base = resolveOptions("pretrain", { layers: "2,16,2", data: first, out: at("base"), learningRate: "0.01" });
const { steps, memoryEstimate } = await dryRun("pretrain", base);
console.log(`${steps} steps are planned, in about ${Math.round(memoryEstimate.total / 2 ** 20)} MiB`);
await runPretrain(base);

const model = at("base/best.onnx");
const { summary } = await runTune(
  resolveOptions("tune", {
    model,
    data: second,
    retainedData: first,
    replay: `${first}=0.25`,
    out: at("tuned"),
    epochs: "10",
  }),
);
console.log(`tuned: ${summary.best.metric} ${summary.best.value.toFixed(3)} at step ${summary.best.step}`);

const adapter = at("tuned/best");
const measured = await runEval(resolveOptions("eval", { model, data: fresh, adapter, out: at("measured") }));
for (const { name, accuracy } of measured.summary.results) console.log(`${name}: ${(100 * accuracy).toFixed(1)} %`);

await runPredict(resolveOptions("predict", { model, data: fresh, adapter, limit: "2" }), {
  write: (line) => process.stdout.write(line),
  warn: console.error,
});
console.log(`${(await readRun(at("tuned"))).evaluations.length} evaluations of the run are in ${at("tuned")}`);
