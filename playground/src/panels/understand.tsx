// Understand: what each rank buys, how strong the update is, blends of several adapters, and what other digits pay.

import { batch } from "@preact/signals";
import type { VNode } from "preact";
import { limits } from "../state/address.ts";
import {
  blend,
  choose,
  composed,
  isOn,
  measured,
  opened,
  parts,
  rank,
  rankCurve,
  removeFromShelf,
  type ShelfItem,
  shelf,
  strength,
  traced,
} from "../state/store.ts";
import { Chart } from "../ui/chart.tsx";
import { count, decimal, percent, size } from "../ui/format.ts";
import { MatrixCanvas } from "../ui/picture.tsx";

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
      </p>
    </div>
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

/** Every digit's accuracy before and after: what one digit's gain costs the others. */
function Price() {
  const current = measured.value;
  const [first] = parts.value;
  const item = shelf.value.find(({ id }) => id === first?.id);
  const names = item?.info.labels ?? Array.from({ length: 10 }, (_, digit) => String(digit));
  if (current === null || current.counts.length !== names.length) return null;
  const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const share = (wrong: readonly number[]): number => 1 - total(wrong) / Math.max(1, total(current.counts));
  const [before, after] = [current.base === null ? null : share(current.base), share(current.adapted)];
  const cost = before === null ? 0 : after - before;
  return (
    <div class="block">
      <h3>{current.base === null ? "How your symbols do" : "What the other digits pay"}</h3>
      <section class="price-scroll" tabIndex={0} aria-label="Table of digits before and after">
        <table class="price" data-accuracy={after}>
          <caption class="visually-hidden">
            Share read right, of {total(current.counts)} {current.base === null ? "examples" : "kept test digits"}
          </caption>
          <thead>
            <tr>
              <td />
              {names.map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
              <th scope="col">all</th>
            </tr>
          </thead>
          <tbody>
            {current.base !== null && (
              <PriceRow name="base" wrong={current.base} counts={current.counts} all={before!} />
            )}
            <PriceRow
              name="adapted"
              wrong={current.adapted}
              counts={current.counts}
              all={after}
              against={current.base}
            />
          </tbody>
        </table>
      </section>
      {before !== null && (
        <p class="note">
          {cost < -0.02
            ? `All ten together fell from ${percent(before, 1)} to ${percent(after, 1)}: what was gained is paid by other digits. The remedy is replay: train again with more digits of the training set mixed in (Teach, Settings), or turn the strength down.`
            : `All ten together: ${percent(before, 1)} before, ${percent(after, 1)} after. ${cost > 0 ? "Nothing was forgotten for it." : "That is next to nothing."}`}
        </p>
      )}
    </div>
  );
}

interface PriceRowProps {
  readonly name: "base" | "adapted";
  readonly wrong: readonly number[];
  readonly counts: readonly number[];
  readonly all: number;
  readonly against?: readonly number[] | null;
}

function PriceRow({ name, wrong, counts, all, against = null }: PriceRowProps) {
  return (
    <tr class={name}>
      <th scope="row">{name}</th>
      {wrong.map((own, at) => {
        const change = against === null ? 0 : own - against[at]!;
        return (
          <td key={at} class={change > 0 ? "worse" : change < 0 ? "better" : ""}>
            {counts[at] === 0 ? "–" : Math.round(100 * (1 - own / counts[at]!))}
            {change !== 0 && <span class="visually-hidden">{change > 0 ? ", worse" : ", better"}</span>}
          </td>
        );
      })}
      <td class="total">{percent(all, 1)}</td>
    </tr>
  );
}

function Rank() {
  const points = rankCurve.value;
  const most = points.at(-1)?.rank ?? 1;
  const spectrum = composed.value?.spectrum ?? [];
  const own = rank.value === null ? most : Math.min(rank.value, most);
  const here = points.find((point) => point.rank === own);
  const hasExamples = points.some(({ examples }) => examples !== null);
  const longest = Math.max(0, ...spectrum.map(({ singularValues }) => singularValues.length));
  const colours = ["--accent", "--base", "--third"];
  return (
    <div class="block">
      <h3>What each rank buys</h3>
      <label class="slider">
        <span>
          Keep the largest <output>{own}</output> of {most} {most === 1 ? "direction" : "directions"} in each layer
        </span>
        <input
          type="range"
          min={1}
          max={Math.max(1, most)}
          step={1}
          value={own}
          disabled={points.length === 0 || most === 1}
          aria-label="Rank that is kept"
          onInput={(event) => {
            const value = event.currentTarget.valueAsNumber;
            rank.value = value >= most ? null : value;
          }}
        />
      </label>
      {points.length > 0 && (
        <div class="chart-pair">
          <Chart
            x={points.map((point) => point.rank)}
            xLabel="rank that is kept"
            lines={[
              {
                label: "kept digits read right",
                colour: "--base",
                values: points.map(({ accuracy }) => accuracy),
                isShare: true,
                points: true,
              },
              ...(hasExamples
                ? [
                    {
                      label: "your examples",
                      colour: "--accent",
                      values: points.map(({ examples }) => examples),
                      isShare: true,
                      points: true,
                    },
                  ]
                : []),
              {
                label: "update that is lost",
                colour: "--third",
                values: points.map((point) => point.relativeError),
                isShare: true,
                dash: true,
                points: true,
              },
            ]}
            summary={points
              .map(
                (point) =>
                  `Rank ${point.rank}: ${percent(point.accuracy, 1)} right, ${percent(point.relativeError)} of the update lost.`,
              )
              .join(" ")}
          />
          <Chart
            x={Array.from({ length: longest }, (_, index) => index + 1)}
            xLabel="singular value of s B A"
            lines={spectrum.map(({ path, singularValues }, index) => ({
              label: path,
              colour: colours[index % colours.length]!,
              values: Array.from({ length: longest }, (_, at) => singularValues[at] ?? null),
              points: true,
            }))}
            summary={spectrum
              .map(
                ({ path, singularValues }) => `${path}: ${singularValues.map((value) => decimal(value)).join(", ")}.`,
              )
              .join(" ")}
          />
        </div>
      )}
      <p class="formula">
        <var>s B A</var> = Σ <var>σᵢ</var> <var>uᵢ</var> <var>vᵢ</var>ᵀ, the first {own} kept
        <span>
          {here === undefined
            ? "…"
            : `${percent(1 - here.relativeError ** 2, 1)} of the squared singular values are kept, in ${count(here.parameters)} numbers`}
        </span>
      </p>
    </div>
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
    </div>
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
