// The TypeScript program that does what the page did: the same examples, settings, batches and order, over the same base.
import { ownInBatch, type TrainingSettings } from "../protocol.ts";

interface Lesson {
  readonly settings: TrainingSettings;
  /** Names of one's own symbols; null where digits were taught. */
  readonly labels: readonly string[] | null;
}

/** Runs beside base.onnx and examples.safetensors, the page's own files; valid as TypeScript and as JavaScript. */
export function program({ settings, labels }: Lesson): string {
  const { r, alpha, targets, learningRate, steps, seed } = settings;
  const replay = labels === null ? settings.replay : 0;
  const names = ["attachLora", "createRandom", "createSession", "initAdapter", "readModel", "readSafetensors"];
  const others = [...(labels === null ? [] : ["withHead"]), "tensor", "train", "writeAdapter"];
  const loras = labels === null ? targets : ["fc1", "fc2"];
  const base = `readModel(await readFile("base.onnx"))`;
  return `import { readFile, writeFile } from "node:fs/promises";
import {
  ${names.join(", ")},
  ${others.join(", ")},
} from "lowrank";

const base = ${labels === null ? base : `withHead(${base}, { labels: ${JSON.stringify(labels)} })`};

// The page's examples: images of 784 bytes, what they are${replay > 0 ? ", and the digits that are mixed in (replay)" : ""}.
const { tensors } = readSafetensors(await readFile("examples.safetensors"), "examples.safetensors");
const bytes = (name = "") => Uint8Array.from(tensors.get(name)?.data ?? [], Number);
const images = [${replay > 0 ? `...bytes("own.images"), ...bytes("replay.images")` : `...bytes("own.images")`}];
const labels = [${replay > 0 ? `...bytes("own.labels"), ...bytes("replay.labels")` : `...bytes("own.labels")`}];
const count = bytes("own.labels").length;

/** Some rows as the network reads them. */
const batchOf = (rows = [0]) => ({
  inputs: {
    x: tensor("float32", [rows.length, 784], Float32Array.from(
      rows.flatMap((row) => images.slice(row * 784, row * 784 + 784)),
      (byte) => (byte / 255 - 0.1307) / 0.3081,
    )),
  },
  labels: tensor("int64", [rows.length], BigInt64Array.from(rows, (row) => BigInt(labels[row] ?? 0))),
});

/** The rows from \`from\` to \`to\` in an order of their own. */
const shuffled = (stream = "", from = 0, to = 0) => {
  const rows = Array.from({ length: to - from }, (_, index) => from + index);
  createRandom(${seed}, stream).shuffle(rows);
  return rows;
};

/** Up to ${ownInBatch} examples at a time${replay > 0 ? `, and ${replay} of the digits for each` : ""}. */
function* batches() {
  const size = Math.ceil(count / Math.ceil(count / ${ownInBatch}));
  for (let epoch = 0, batch = 0; ; epoch++) {
    const rows = shuffled(\`own \${epoch}\`, 0, count);
    for (let at = 0; at < count; at += size, batch++) {
${
  replay > 0
    ? `      const mixed = shuffled(\`replay \${batch}\`, count, labels.length).slice(0, Math.round(size * ${replay}));
      yield batchOf([...rows.slice(at, at + size), ...mixed]);`
    : `      yield batchOf(rows.slice(at, at + size));`
}
    }
  }
}

const adapted = attachLora(base, {
  r: ${r},
  loraAlpha: ${alpha},
  targetModules: ${JSON.stringify(loras)},${labels === null ? "" : `\n  modulesToSave: ["classifier"],`}
});
const { adapter, history } = await train(adapted, batches(), {
  adapter: initAdapter(adapted, { seed: ${seed} }).adapter,
  steps: ${steps},
  learningRate: ${learningRate},
});
console.log(\`loss \${history.losses.at(0)?.toFixed(3)} -> \${history.losses.at(-1)?.toFixed(3)}\`);
for (const [name, file] of writeAdapter(${labels === null ? "adapter" : `{ ...adapter, labels: ${JSON.stringify(labels)} }`})) await writeFile(name, file);

const session = await createSession(adapted);
const own = batchOf(Array.from({ length: count }, (_, row) => row));
const logits = [...((await session.run(own.inputs, { adapter })).get("logits")?.data ?? [])].map(Number);
const classes = logits.length / count;
const right = Array.from({ length: count }, (_, row) => {
  const scores = logits.slice(row * classes, (row + 1) * classes);
  return scores.indexOf(Math.max(...scores)) === labels[row];
}).filter(Boolean).length;
console.log(\`\${right} of \${count} examples are read right\`);
await session.dispose();
`;
}
