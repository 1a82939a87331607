// Understand: what each rank buys, how strong the update is, blends of several adapters, and what other digits pay.

import { batch } from "@preact/signals";
import type { VNode } from "preact";
import { limits } from "../state/address.ts";
import {
  blend,
  choose,
  composed,
  isOn,
  opened,
  parts,
  prediction,
  removeFromShelf,
  type ShelfItem,
  shelf,
  strength,
  traced,
  truth,
} from "../state/store.ts";
import { count, decimal, largest, percent, shares, signed, size } from "../ui/format.ts";
import { MatrixCanvas } from "../ui/picture.tsx";
import { Price } from "./price.tsx";
import { Rank } from "./rank.tsx";

export function Understand(): VNode {
  return (
    <section class="panel" id="understand" aria-labelledby="understand-title">
      <header>
        <p class="number">3</p>
        <h2 id="understand-title">Understand it</h2>
        <p class="lede">
          Turn each of the adapter's knobs and see what it is worth, on the digit on the board and on 500 that were
          kept.
        </p>
      </header>
      <Shelf />
      <Price />
      <Rank />
      <Strength />
      <InThisDigit />
      <Counts />
    </section>
  );
}

/** The adapters that are there: on, off, and how much of each. */
function Shelf() {
  const [first] = parts.value;
  const isExclusive = shelf.value.some(({ id, info }) => id === first?.id && info.labels !== null);
  return (
    <div class="block">
      <h3>Which adapters</h3>
      <p class="note">Tick several to blend two people's hands: their updates are added, each with its weight.</p>
      <ul class="shelf">
        {shelf.value.map((item) => (
          <ShelfRow key={item.id} item={item} isExclusive={isExclusive} />
        ))}
      </ul>
      <p class="formula">
        <var>W′</var> = <var>W</var> + <var>w₁</var> <var>s₁</var> <var>B₁</var> <var>A₁</var> + <var>w₂</var>{" "}
        <var>s₂</var> <var>B₂</var> <var>A₂</var> + …
        <span>
          {parts.value.length === 0
            ? "nothing is chosen: W′ = W"
            : `weights ${parts.value.map(({ weight }) => decimal(weight)).join(" and ")}, ranks add up to ${composed.value?.r ?? 0}`}
        </span>
        <PartsOnDigit />
      </p>
    </div>
  );
}

/** What each adapter adds for the digit on the board, at the unit that they move most together. */
function PartsOnDigit() {
  const current = traced.value;
  if (current === null || current.parts.length === 0 || current.parts.length !== parts.value.length) return null;
  const sum = current.parts.reduce((total, value) => total + value, 0);
  return (
    <span>
      On this digit, unit {current.unit} of fc1 gets {current.parts.map((value) => signed(value)).join(" and ")}
      {current.parts.length > 1 && ` = ${signed(sum)}`}.
    </span>
  );
}

function ShelfRow({ item, isExclusive }: { item: ShelfItem; isExclusive: boolean }) {
  const part = blend.value.find(({ id }) => id === item.id);
  const toggle = (isWanted: boolean): void => {
    const others = blend.value.filter(({ id }) => id !== item.id);
    if (!isWanted) blend.value = others;
    else if (item.info.labels !== null || isExclusive) choose(item.id);
    else {
      batch(() => {
        blend.value = [...others, { id: item.id, weight: 1 }];
        isOn.value = true;
      });
    }
  };
  const weigh = (weight: number): void => {
    blend.value = blend.value.map((own) => (own.id === item.id ? { ...own, weight } : own));
  };
  return (
    <li>
      <label class="check">
        <input type="checkbox" checked={part !== undefined} onChange={(event) => toggle(event.currentTarget.checked)} />
        <span>
          <b>{item.name}</b> <span class="note">{item.note}</span>
        </span>
      </label>
      <label class="weight">
        <span class="visually-hidden">Weight of {item.name}</span>
        <input
          type="range"
          min={limits.weight.from}
          max={limits.weight.to}
          step={0.05}
          disabled={part === undefined}
          value={part?.weight ?? 1}
          onInput={(event) => weigh(event.currentTarget.valueAsNumber)}
        />
        <output>{decimal(part?.weight ?? 1)}</output>
      </label>
      <button type="button" class="quiet" onClick={() => removeFromShelf(item.id)}>
        Remove<span class="visually-hidden"> {item.name}</span>
      </button>
    </li>
  );
}

function Strength() {
  return (
    <div class="block">
      <h3>How strong</h3>
      <label class="slider">
        <span>
          Alpha times <output>{decimal(strength.value)}</output>
        </span>
        <input
          type="range"
          min={limits.strength.from}
          max={limits.strength.to}
          step={0.05}
          value={strength.value}
          aria-label="Strength of the adapter"
          onInput={(event) => {
            strength.value = event.currentTarget.valueAsNumber;
          }}
        />
      </label>
      <div class="tools">
        {[0, 0.5, 1, 2].map((value) => (
          <button
            key={value}
            type="button"
            class="quiet"
            aria-pressed={strength.value === value}
            onClick={() => {
              strength.value = value;
            }}
          >
            {value === 0 ? "0, the base" : value === 1 ? "1, as trained" : `× ${value}`}
          </button>
        ))}
      </div>
      <StrengthOnDigit />
    </div>
  );
}

/** The scale, and what it does to the score of what is on the board. */
function StrengthOnDigit() {
  const [first, ...others] = parts.value;
  const info = shelf.value.find(({ id }) => id === first?.id)?.info;
  const seen = prediction.value;
  if (info === undefined) return null;
  const { r, alpha, isRslora, labels } = info;
  const strong = strength.value * first!.weight;
  const at = seen === null ? -1 : (truth.value ?? largest(shares(seen.adapted)));
  const isComparable = seen !== null && labels === null && seen.adapted.length === 10 && isOn.value;
  return (
    <p class="formula">
      <var>s</var> = k <var>α</var> / {isRslora && "√"}
      <var>r</var>
      {others.length === 0 && (
        <span>
          {decimal(strong)} · {decimal(alpha, Number.isInteger(alpha) ? 0 : 2)} / {isRslora && "√"}
          {r} = {decimal((strong * alpha) / (isRslora ? Math.sqrt(r) : r))}
        </span>
      )}
      {isComparable && (
        <span>
          On this digit: the score of {at} goes from {decimal(seen.base[at]!)} to {decimal(seen.adapted[at]!)}, its
          confidence from {percent(shares(seen.base)[at]!)} to {percent(shares(seen.adapted)[at]!)}.
        </span>
      )}
    </p>
  );
}

/** One digit on its way through the first layer. */
function InThisDigit() {
  const current = traced.value;
  if (current === null || current.ax.length === 0) return null;
  const sum = current.wx + current.update;
  const shown = current.rows.slice(0, 8);
  return (
    <div class="block">
      <h3>On the digit on the board</h3>
      <p class="note">
        Each row of A is a picture of 28 × 28 that the digit is compared with; what comes out, r numbers, is all that B
        gets to know of it.
      </p>
      <ul class="rows">
        {shown.map((row, index) => (
          <li key={index}>
            <MatrixCanvas picture={row} label={`Row ${index + 1} of A in fc1`} class="row-picture" />
            <span>{decimal(current.ax[index]!, 1)}</span>
          </li>
        ))}
      </ul>
      <p class="formula">
        <var>h</var> = max(0, <var>W x</var> + <var>b</var> + <var>s B</var>(<var>A x</var>))
        <span>
          unit {current.unit} of fc1: max(0, {decimal(current.wx)} {current.update < 0 ? "−" : "+"}{" "}
          {decimal(Math.abs(current.update))}) = {decimal(Math.max(0, sum))}, without the adapter{" "}
          {decimal(Math.max(0, current.wx))}
        </span>
      </p>
    </div>
  );
}

/** Parameters and bytes, in proportion to the base. */
function Counts() {
  const [about, current] = [opened.value, composed.value];
  if (about === null || current === null) return null;
  const share = current.parameters / about.parameters;
  return (
    <div class="block">
      <h3>What it weighs</h3>
      <div class="scale-bar" role="img" aria-label={`The adapter is ${percent(share, 2)} of the base`}>
        <span style={{ transform: `scaleX(${Math.min(1, share).toFixed(5)})` }} />
      </div>
      <dl class="facts">
        <div>
          <dt>Base, frozen</dt>
          <dd>{count(about.parameters)} numbers</dd>
          <dd>{size(about.baseBytes)} in int8</dd>
        </div>
        <div>
          <dt>Adapter, trained</dt>
          <dd>{count(current.parameters)} numbers</dd>
          <dd>{size(current.bytes)} as PEFT's files</dd>
        </div>
        <div>
          <dt>In proportion</dt>
          <dd>{percent(share, 2)}</dd>
          <dd>rank {current.r}</dd>
        </div>
      </dl>
      <p class="formula">
        <var>r</var> · (in + out), summed over the layers
        <span>
          {current.spectrum
            .map(({ path, r }) => {
              const layer = about.layers.find((own) => own.path === path);
              return `${path}: ${r} · (${layer?.inFeatures} + ${layer?.outFeatures})`;
            })
            .join(", ")}
        </span>
      </p>
    </div>
  );
}
