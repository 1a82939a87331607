// Take home: the adapter, the base and the merged model as files, an adapter from elsewhere, and the program that does the same.

import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import type { ExportKind } from "../protocol.ts";
import { addToShelf, choose, chosenMix, engine, notice, parts, report, shelf, training } from "../state/store.ts";
import { Dropzone, readFiles } from "../ui/dropzone.tsx";
import { size } from "../ui/format.ts";

const most = 64_000_000;

const kinds: readonly { kind: ExportKind; file: string; title: string; note: string }[] = [
  {
    kind: "peft",
    file: "adapter.zip",
    title: "Adapter, for PEFT",
    note: "adapter_config.json and adapter_model.safetensors",
  },
  {
    kind: "onnx_adapter",
    file: "adapter.onnx_adapter",
    title: "Adapter, for ONNX Runtime",
    note: "one file, scale multiplied in",
  },
  { kind: "base", file: "base.onnx", title: "The base", note: "what the adapter was trained over, int8" },
  { kind: "merged", file: "merged.onnx", title: "Merged model", note: "W + s B A, runs anywhere" },
];

export function TakeHome(): VNode {
  return (
    <section class="panel" id="home" aria-labelledby="home-title">
      <header>
        <p class="number">4</p>
        <h2 id="home-title">Take it home</h2>
        <p class="lede">
          What is switched on above, as files that other programs open; and adapters of theirs, to be tried here.
        </p>
      </header>
      <Exports />
      <Import />
      <Snippet />
    </section>
  );
}

function Exports() {
  const isEmpty = parts.value.length === 0;
  return (
    <ul class="exports">
      {kinds.map(({ kind, file, title, note }) => (
        <li key={kind}>
          <button
            type="button"
            class="export"
            disabled={isEmpty && kind !== "base"}
            onClick={() => void save(kind, file)}
          >
            <b>{title}</b>
            <span>{note}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

async function save(kind: ExportKind, file: string): Promise<void> {
  try {
    const bytes = await engine.ask("export", { mix: chosenMix.value, kind });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
    link.download = file;
    link.click();
    // The browser reads it after this turn.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    notice.value = { kind: "info", text: `${file}, ${size(bytes.length)}, is saved.` };
  } catch (error) {
    report(error);
  }
}

function Import() {
  return (
    <Dropzone
      label="Open an adapter"
      accept=".zip,.json,.safetensors,.onnx_adapter"
      multiple
      onFiles={(files) => void open(files)}
    >
      <b>Open an adapter</b>
      <span>
        Drop PEFT's two files, a zip of them, or an .onnx_adapter here, or press to choose. It must fit this base.
      </span>
    </Dropzone>
  );
}

async function open(files: readonly File[]): Promise<void> {
  try {
    const read = await engine.ask("readFiles", { files: await readFiles(files, most) });
    const taken = new Set(shelf.value.map(({ id }) => id));
    const id = Array.from({ length: 1000 }, (_, index) => `file-${index + 1}`).find((name) => !taken.has(name))!;
    const name = files[0]!.name.replace(/\.(zip|onnx_adapter|json|safetensors)$/, "");
    const { info } = await addToShelf({ id, name, note: "from a file", files: read });
    choose(id);
    notice.value = { kind: "info", text: `${name}: rank ${info.r}, on ${info.targets.join(", ")}. It is switched on.` };
  } catch (error) {
    report(error);
  }
}

/** The program that does what the page does with the present settings. */
function program(): string {
  const { r, alpha, targets, learningRate, steps } = training.value;
  const list = targets.map((path) => JSON.stringify(path)).join(", ");
  return `import { readFile, writeFile } from "node:fs/promises";
import {
  attachLora, batchesOf, createSession, readModel, tensor, train, writeAdapter,
} from "lowrank";

const base = readModel(await readFile("base.onnx"));

// Your digits: 784 pixels each, (pixel / 255 - 0.1307) / 0.3081, and what they are.
const count = 20;
const examples = {
  inputs: { x: tensor("float32", [count, 784], new Float32Array(count * 784)) },
  labels: tensor("int64", [count], new BigInt64Array(count)),
};

const adapted = attachLora(base, {
  r: ${r},
  loraAlpha: ${alpha},
  targetModules: [${list}],
});
const { adapter, history } = await train(adapted, batchesOf(examples, { batchSize: 16 }), {
  steps: ${steps},
  learningRate: ${learningRate},
});
console.log(\`loss \${history.losses.at(0)} -> \${history.losses.at(-1)}\`);

for (const [name, bytes] of writeAdapter(adapter)) await writeFile(name, bytes);

const session = await createSession(adapted);
const outputs = await session.run({ x: examples.inputs.x }, { adapter });
console.log(outputs.get("logits")?.dims);
`;
}

function Snippet() {
  const said = useSignal("");
  const text = program();
  const copy = (): void => {
    navigator.clipboard.writeText(text).then(
      () => {
        said.value = "Copied.";
      },
      () => {
        said.value = "The browser did not allow it: select the text and copy it.";
      },
    );
  };
  return (
    <div class="block">
      <div class="collected-head">
        <h3 id="snippet-title">The same in TypeScript</h3>
        <span class="note" role="status">
          {said.value}
        </span>
        <button type="button" class="quiet" onClick={copy}>
          Copy
        </button>
      </div>
      <section class="snippet" tabIndex={0} aria-labelledby="snippet-title">
        <pre>
          <code>{text}</code>
        </pre>
      </section>
    </div>
  );
}
