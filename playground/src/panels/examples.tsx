// Examples of one's own: collected from the board, looked at, taken away again, and kept in files.
import { batch } from "@preact/signals";
import type { VNode } from "preact";
import { pixelCount } from "../digit/bytes.ts";
import { longestName, mostExamples, mostSymbols } from "../digit/examples.ts";
import { type Example, engine, examples, mode, notice, opened, pixels, report, symbols } from "../state/store.ts";
import { requestOf } from "../state/teaching.ts";
import { readFiles } from "../ui/dropzone.tsx";
import { DigitCanvas } from "../ui/picture.tsx";
import { roam } from "../ui/roam.ts";
import { save } from "../ui/save.ts";

const digitNames: readonly string[] = Array.from({ length: 10 }, (_, digit) => String(digit));

/** A file of examples is no larger, the digits that are mixed in included. */
const mostBytes = 2_000_000;

function add(label: number): void {
  if (pixels.value === null) return;
  const own: readonly Example[] = examples.value[mode.value];
  if (own.length >= mostExamples) {
    notice.value = { kind: "error", text: `There are ${mostExamples} examples, the most that fit: remove some first.` };
    return;
  }
  examples.value = { ...examples.value, [mode.value]: [...own, { pixels: pixels.value.slice(), label }] };
}

/** A button for each class: pressing it adds what is on the board. */
export function Labels(): VNode {
  const isDigits = mode.value === "digits";
  const names = isDigits ? digitNames : symbols.value;
  const own = examples.value[mode.value];
  return (
    <div class="labels">
      <fieldset class="label-buttons">
        <legend class="field-title">What is on the board is</legend>
        {names.map((name, label) => {
          const total = own.filter((example) => example.label === label).length;
          return (
            <button
              key={name}
              type="button"
              class="label-button"
              disabled={pixels.value === null}
              onClick={() => add(label)}
            >
              <span class="visually-hidden">Add as </span>
              {name}
              {total > 0 && <span class="tally">{total}</span>}
            </button>
          );
        })}
      </fieldset>
      {isDigits ? <TakeMisread /> : <SymbolNames />}
    </div>
  );
}

/** Twenty of them; none before the base is there. They come sorted by what the ready adapter makes of them: some of each kind. */
export function misreadExamples(): Example[] {
  const misread = opened.value?.misread;
  if (misread === undefined) return [];
  return Array.from({ length: 20 }, (_, index) => {
    const at = Math.floor((index * misread.labels.length) / 20);
    return { pixels: misread.images.slice(at * pixelCount, (at + 1) * pixelCount), label: misread.labels[at]! };
  });
}

/** For those who want to see it learn before they draw twenty digits. */
function TakeMisread() {
  if (opened.value === null) return null;
  const take = (): void => {
    examples.value = {
      ...examples.value,
      digits: [...examples.value.digits, ...misreadExamples()].slice(-mostExamples),
    };
  };
  return (
    <button type="button" onClick={take}>
      In a hurry? Take 20 misread test digits
    </button>
  );
}

/** Names are changed in place; a symbol that goes takes its examples along. */
function SymbolNames() {
  const rename = (at: number, name: string): void => {
    const clean = name.trim().slice(0, longestName);
    if (clean !== "" && !symbols.value.includes(clean)) symbols.value = symbols.value.with(at, clean);
  };
  const remove = (at: number): void => {
    const left = examples.value.symbols
      .filter(({ label }) => label !== at)
      .map((example) => (example.label > at ? { ...example, label: example.label - 1 } : example));
    examples.value = { ...examples.value, symbols: left };
    symbols.value = symbols.value.toSpliced(at, 1);
  };
  const another = (): void => {
    const free = Array.from({ length: 20 }, (_, index) => `symbol ${index + 1}`).find(
      (name) => !symbols.value.includes(name),
    );
    symbols.value = [...symbols.value, free!];
  };
  return (
    <details class="names">
      <summary>
        Name your symbols ({symbols.value.length} of up to {mostSymbols})
      </summary>
      <ul>
        {symbols.value.map((name, at) => (
          <li key={name}>
            <input
              type="text"
              aria-label={`Name of symbol ${at + 1}`}
              value={name}
              maxLength={longestName}
              onChange={(event) => rename(at, event.currentTarget.value)}
            />
            <button type="button" class="quiet" disabled={symbols.value.length <= 2} onClick={() => remove(at)}>
              Remove<span class="visually-hidden"> {name}</span>
            </button>
          </li>
        ))}
      </ul>
      <button type="button" disabled={symbols.value.length >= mostSymbols} onClick={another}>
        Another symbol
      </button>
    </details>
  );
}

export function Collected(): VNode {
  const own = examples.value[mode.value];
  const names = mode.value === "digits" ? digitNames : symbols.value;
  const remove = (at: number): void => {
    examples.value = { ...examples.value, [mode.value]: own.toSpliced(at, 1) };
  };
  return (
    <div class="collected">
      <div class="collected-head">
        <h3 id="collected-title">
          {own.length === 0 ? "No examples yet" : own.length === 1 ? "1 example" : `${own.length} examples`}
        </h3>
        <div class="tools">
          <label class="button quiet">
            Open
            <input
              type="file"
              accept=".safetensors"
              class="visually-hidden"
              aria-label="Open examples"
              onChange={(event) => {
                const [file] = event.currentTarget.files ?? [];
                if (file !== undefined) open(file).catch(report);
                event.currentTarget.value = "";
              }}
            />
          </label>
          {own.length > 0 && (
            <>
              <button type="button" class="quiet" onClick={() => void keepAsFile().catch(report)}>
                Save<span class="visually-hidden"> the examples</span>
              </button>
              <button
                type="button"
                class="quiet"
                onClick={() => {
                  examples.value = { ...examples.value, [mode.value]: [] };
                }}
              >
                Remove all
              </button>
            </>
          )}
        </div>
      </div>
      {own.length > 0 && (
        <ul class="thumbs" aria-labelledby="collected-title" onKeyDown={roam}>
          {own.map((example, at) => (
            <li key={at}>
              <button
                type="button"
                class="thumb"
                tabIndex={at === 0 ? 0 : -1}
                title="Remove"
                aria-label={`Remove example ${at + 1}, a ${names[example.label]}`}
                onClick={() => remove(at)}
              >
                <DigitCanvas pixels={example.pixels} />
                <span class="thumb-label" aria-hidden="true">
                  {names[example.label]}
                </span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

async function keepAsFile(): Promise<void> {
  const { examples: own, labels } = requestOf();
  save("examples.safetensors", await engine.ask("packExamples", { examples: own, labels }));
}

/** Another's hand, or one's own of another day: added to the digits that are there, in the place of the symbols. */
async function open(file: File): Promise<void> {
  const files = await readFiles([file], mostBytes);
  const { examples: read, labels } = await engine.ask("readExamples", { name: file.name, bytes: files[file.name]! });
  const list = Array.from(read.labels, (label, at): Example => {
    return { pixels: read.images.slice(at * pixelCount, (at + 1) * pixelCount), label };
  });
  batch(() => {
    if (labels === null)
      examples.value = { ...examples.value, digits: [...examples.value.digits, ...list].slice(-mostExamples) };
    else {
      symbols.value = labels;
      examples.value = { ...examples.value, symbols: list };
    }
    mode.value = labels === null ? "digits" : "symbols";
  });
  notice.value = {
    kind: "info",
    text: `${list.length} examples of ${labels === null ? "digits" : labels.join(", ")} were added.`,
  };
}
