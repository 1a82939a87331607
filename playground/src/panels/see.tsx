// The picture of W + s B A: a layer's real matrices.
import type { VNode } from "preact";
import { side } from "../digit/bytes.ts";
import type { Cell, LayerPicture } from "../protocol.ts";
import { cell, chosenMix, layer, opened, picture, pointed } from "../state/store.ts";
import { count, decimal, percent, signed } from "../ui/format.ts";
import { SpottedMatrix } from "../ui/picture.tsx";

export function See(): VNode {
  const current = picture.value;
  const layers = opened.value?.layers ?? [];
  return (
    <section class="panel" id="see" aria-labelledby="see-title">
      <header>
        <p class="number">1</p>
        <h2 id="see-title">What an adapter adds</h2>
        <p class="lede">
          A layer multiplies by a big matrix W, which stays as it is. The adapter is two thin ones, B and A; their
          product is as large as W, and is added to it. These are the real numbers:{" "}
          <span class="key key-negative">below zero</span> <span class="key key-accent">above</span>.
        </p>
      </header>
      <fieldset class="segments">
        <legend class="visually-hidden">Layer to show</legend>
        {layers.map(({ path, inFeatures, outFeatures }) => (
          <label key={path}>
            <input
              type="radio"
              name="layer"
              checked={layer.value === path}
              onChange={() => {
                layer.value = path;
                pointed.value = null;
              }}
            />
            <span>
              {path}{" "}
              <small>
                {outFeatures} × {inFeatures}
              </small>
            </span>
          </label>
        ))}
      </fieldset>
      {current !== null && <Equation current={current} />}
    </section>
  );
}

/** The matrices side by side. What is pointed at in one is marked in all. */
function Equation({ current }: { current: LayerPicture }) {
  const { path, outFeatures, inFeatures, r } = current;
  const here = cell.value?.path === path ? cell.value : null;
  const spot: { row?: number; column?: number } =
    here === null ? {} : { row: (here.row + 0.5) / outFeatures, column: (here.column + 0.5) / inFeatures };
  const point = (down: number, across: number): void => {
    pointed.value = { row: Math.floor(down * outFeatures), column: Math.floor(across * inFeatures) };
  };
  const pointRow = (down: number): void => point(down, spot.column ?? 0);
  const pointColumn = (_: number, across: number): void => point(spot.row ?? 0, across);
  return (
    <>
      <div class="equation">
        <figure>
          <SpottedMatrix
            picture={current.w}
            label={`The frozen weights of ${path}, ${outFeatures} by ${inFeatures}`}
            spot={spot}
            onPoint={point}
          />
          <figcaption>
            <b>W</b> frozen
          </figcaption>
        </figure>
        <span class="sign">
          + <span class="scale">s&thinsp;=&thinsp;{decimal(current.scale)} ×</span>
        </span>
        {r === 0 ? (
          <p class="untouched">{chosenMix.value.parts.length === 0 ? "no adapter" : "this layer is left alone"}</p>
        ) : (
          <figure class="product">
            <div class="factors">
              <SpottedMatrix
                picture={current.b}
                class="strip-b"
                label={`B, ${outFeatures} by ${r}`}
                spot={{ row: spot.row }}
                onPoint={pointRow}
              />
              <SpottedMatrix
                picture={current.a}
                class="strip-a"
                label={`A, ${r} by ${inFeatures}`}
                spot={{ column: spot.column }}
                onPoint={pointColumn}
              />
              <SpottedMatrix
                picture={current.update}
                label={`The update s B A, as large as W but of rank ${r}`}
                class="matrix faint"
                spot={spot}
                onPoint={point}
              />
            </div>
            <figcaption>
              <b>B</b> standing, <b>A</b> lying: {count(r * (outFeatures + inFeatures))} numbers
            </figcaption>
          </figure>
        )}
        <span class="sign equals">=</span>
        <figure class="sum">
          <SpottedMatrix picture={current.sum} label="The sum, which the digit meets" spot={spot} onPoint={point} />
          <figcaption>
            <b>W + s B A</b>
          </figcaption>
        </figure>
      </div>
      {here !== null && <Place here={here} rows={outFeatures} columns={inFeatures} />}
      <p class="formula">
        <var>W′</var> = <var>W</var> + <var>s</var> <var>B</var> <var>A</var>
        {here !== null && <PlaceNumbers here={here} />}
        <span>
          In all: ‖W‖ = {decimal(current.norms.w)}, ‖s B A‖ = {decimal(current.norms.update)}, a change of{" "}
          {percent(current.norms.update / current.norms.w, 1)}.
        </span>
      </p>
    </>
  );
}

/** The marked row and column, for those who do not point. */
function Place({ here, rows, columns }: { here: Cell; rows: number; columns: number }) {
  // The numbers of a place come a moment later: what was asked for last is what moves on.
  const { row, column } = pointed.value ?? here;
  const move = (next: Partial<{ row: number; column: number }>): void => {
    pointed.value = { row, column, ...next };
  };
  return (
    <div class="place">
      <label>
        Row <output>{row}</output>
        <input
          type="range"
          min={0}
          max={rows - 1}
          value={row}
          aria-label="Row of the matrices"
          onInput={(event) => move({ row: event.currentTarget.valueAsNumber })}
        />
      </label>
      <label>
        Column <output>{column}</output>
        <input
          type="range"
          min={0}
          max={columns - 1}
          value={column}
          aria-label="Column of the matrices"
          onInput={(event) => move({ column: event.currentTarget.valueAsNumber })}
        />
      </label>
      <button
        type="button"
        class="quiet"
        disabled={pointed.value === null}
        onClick={() => {
          pointed.value = null;
        }}
      >
        Where it does most
      </button>
    </div>
  );
}

/** The sum at that place, and what the row makes of the digit on the board. */
function PlaceNumbers({ here }: { here: Cell }) {
  const { path, row, column, w, a, b, scale, digit } = here;
  const added = scale * b.reduce((sum, value, rank) => sum + value * a[rank]!, 0);
  const terms = b.slice(0, 3).map((value, rank) => `${decimal(value, 3)} · ${decimal(a[rank]!, 3)}`);
  const product = `${decimal(scale)} · (${terms.join(" + ")}${b.length > 3 ? " + …" : ""})`;
  const input = path === "fc1" ? `pixel ${Math.floor(column / side) + 1}, ${(column % side) + 1}` : `input ${column}`;
  const unit = path === "fc3" ? `the score of ${row}` : `unit ${row}`;
  return (
    <>
      <span>
        Row {row}, column {column}: {decimal(w, 4)}
        {b.length === 0 ? " + nothing" : ` + ${product} = ${decimal(w + added, 4)}`}.
      </span>
      {digit !== null && (
        <span>
          On this digit: {input} is {decimal(digit.x)} there; all inputs together give {unit} {decimal(digit.wx)} by W,
          and {signed(digit.update)} by the adapter: {decimal(digit.wx + digit.update)}.
        </span>
      )}
    </>
  );
}
