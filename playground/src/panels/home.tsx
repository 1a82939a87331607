// Take home: the adapter, the base and the merged model as files, an adapter from elsewhere, and the program that does the same.

import { computed, type ReadonlySignal, useSignal } from "@preact/signals";
import type { VNode } from "preact";
import type { ExportKind, TrainingRequest } from "../protocol.ts";
import {
  addToShelf,
  chosenMix,
  engine,
  isOn,
  labels,
  notice,
  parts,
  prediction,
  report,
  shelf,
} from "../state/store.ts";
import { requestOf, run } from "../state/teaching.ts";
import { Dropzone, readFiles } from "../ui/dropzone.tsx";
import { decimal, largest } from "../ui/format.ts";
import { save } from "../ui/save.ts";
import { program } from "./program.ts";

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
      <MergedOnDigit />
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
            onClick={() => void take(kind, file)}
          >
            <b>{title}</b>
            <span>{note}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

async function take(kind: ExportKind, file: string): Promise<void> {
  try {
    save(file, await engine.ask("export", { mix: chosenMix.value, kind }));
  } catch (error) {
    report(error);
  }
}

/** Merging changes the form, not the answers. */
function MergedOnDigit() {
  const seen = prediction.value;
  const name = labels.value;
  if (seen === null || !isOn.value || parts.value.length === 0) return null;
  const at = largest([...seen.adapted]);
  return (
    <p class="formula">
      <var>W x</var> + <var>s B</var>(<var>A x</var>) = (<var>W</var> + <var>s B A</var>) <var>x</var>
      <span>
        On this digit, base and adapter give {name?.[at] ?? at} the score {decimal(seen.adapted[at]!)}; so does the
        merged model, without an adapter beside it.
      </span>
    </p>
  );
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

async function open(dropped: readonly File[]): Promise<void> {
  // A folder of PEFT's holds more than the adapter: a README, sometimes an optimizer's state of gigabytes.
  const known = dropped.filter(({ name }) => /\.(zip|onnx_adapter|json|safetensors)$/.test(name));
  const files = known.length === 0 ? dropped : known;
  try {
    const read = await engine.ask("readFiles", { files: await readFiles(files, most) });
    const taken = new Set(shelf.value.map(({ id }) => id));
    const number = Array.from({ length: 1000 }, (_, index) => index + 1).find((own) => !taken.has(`file-${own}`))!;
    const id = `file-${number}`;
    const file = files[0]!.name.replace(/\.(zip|onnx_adapter|json|safetensors)$/, "");
    // All of PEFT's adapters have files of the same names.
    const name = /^adapter(_config|_model)?$/.test(file) ? `Opened ${number}` : file;
    const { info } = await addToShelf({ id, name, note: "from a file", files: read }, { isChosen: true });
    notice.value = { kind: "info", text: `${name}: rank ${info.r}, on ${info.targets.join(", ")}. It is switched on.` };
  } catch (error) {
    report(error);
  }
}

/** What the page just did, or would do with the settings that are there. */
const lesson: ReadonlySignal<TrainingRequest> = computed(() => {
  const done = run.value;
  if (done !== null && done.state !== "running") return done.request;
  return requestOf();
});

/** Its examples, which the program reads from beside it. */
async function takeExamples(): Promise<void> {
  try {
    const { examples, labels } = lesson.value;
    save("examples.safetensors", await engine.ask("packExamples", { examples, labels }));
  } catch (error) {
    report(error);
  }
}

function Snippet() {
  const said = useSignal("");
  const text = program(lesson.value);
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
        <button type="button" onClick={copy}>
          Copy
        </button>
      </div>
      <p class="note">
        It reads two files beside it and trains the same adapter: <code>base.onnx</code>, from above, and{" "}
        <button
          type="button"
          class="inline"
          disabled={lesson.value.examples.labels.length === 0}
          onClick={() => void takeExamples()}
        >
          examples.safetensors
        </button>
        , {lesson.value.examples.labels.length} of your examples. Then: <code>npm install lowrank</code>.
      </p>
      <section class="snippet" tabIndex={0} aria-labelledby="snippet-title">
        <pre>
          <code>{text}</code>
        </pre>
      </section>
    </div>
  );
}
