// Ten bars of confidence, base and adapted side by side, and the one sentence that says what is going on.
import type { VNode } from "preact";
import { composed, isOn, labels, mix, opened, parts, pixels, prediction, shelf, truth } from "../state/store.ts";
import { count, decimal, largest, percent, shares } from "../ui/format.ts";

const digits: readonly string[] = Array.from({ length: 10 }, (_, digit) => String(digit));

/** The digits with the base's and the adapted model's confidence. */
export function Bars(): VNode {
  const current = prediction.value;
  const own = labels.value;
  const base = current === null ? null : shares(current.base);
  // An answer to the mix before may have other classes for a moment.
  const fits = current !== null && current.adapted.length === (own?.length ?? 10);
  const adapted = fits ? shares(current.adapted) : null;
  const isApart = own !== null && mix.value.parts.length > 0;
  return (
    <section class="bars" aria-labelledby="bars-title">
      <div class="bars-head">
        <h2 id="bars-title">It reads</h2>
        <label class="switch">
          <input
            type="checkbox"
            role="switch"
            checked={isOn.value}
            aria-checked={isOn.value}
            onChange={(event) => {
              isOn.value = event.currentTarget.checked;
            }}
          />
          Adapter
        </label>
      </div>
      <p class="legend">
        <span class="key key-base">base</span>
        <span class="key key-accent">with the adapter</span>
      </p>
      {isApart ? (
        <div class="apart">
          <Rows names={digits} base={base} adapted={null} logits={{ base: current?.base ?? null, adapted: null }} />
          <Rows names={own} base={null} adapted={adapted} logits={{ base: null, adapted: current?.adapted ?? null }} />
        </div>
      ) : (
        <Rows
          names={digits}
          base={base}
          adapted={adapted}
          logits={{ base: current?.base ?? null, adapted: current?.adapted ?? null }}
        />
      )}
      <p class="speed" data-ms={current?.ms}>
        {current !== null && `Read in ${current.ms.toFixed(1)} ms, in this page.`}
        {current === null && (pixels.value === null ? "Draw something to have it read." : "Reading …")}
      </p>
      {fits && <Softmax logits={current.adapted} names={own ?? digits} />}
    </section>
  );
}

/** How scores become confidence, for what it reads. */
function Softmax({ logits, names }: { logits: Float32Array; names: readonly string[] }) {
  const at = largest([...logits]);
  const sum = logits.reduce((total, score) => total + Math.exp(score), 0);
  return (
    <p class="formula">
      <var>p</var> = e<sup>z</sup> / Σ e<sup>z</sup>
      <span>
        {names[at]}: e<sup>{decimal(logits[at]!)}</sup> / {sum.toPrecision(4)} = {percent(shares(logits)[at]!)}
      </span>
    </p>
  );
}

interface RowsProps {
  readonly names: readonly string[];
  readonly base: readonly number[] | null;
  readonly adapted: readonly number[] | null;
  readonly logits: { readonly base: Float32Array | null; readonly adapted: Float32Array | null };
}

function Rows({ names, base, adapted, logits }: RowsProps) {
  const [bestBase, bestAdapted] = [base && largest(base), adapted && largest(adapted)];
  return (
    <table class="bar-table">
      <thead class="visually-hidden">
        <tr>
          <th scope="col">Class</th>
          <th scope="col">Confidence</th>
        </tr>
      </thead>
      <tbody>
        {names.map((name, at) => (
          <tr key={name} class={at === bestAdapted || (adapted === null && at === bestBase) ? "best" : ""}>
            <th scope="row">{name}</th>
            <td>
              {base !== null && (
                <Bar kind="base" share={base[at]!} logit={logits.base?.[at]} isBest={at === bestBase} />
              )}
              {adapted !== null && (
                <Bar kind="adapted" share={adapted[at]!} logit={logits.adapted?.[at]} isBest={at === bestAdapted} />
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface BarProps {
  readonly kind: "base" | "adapted";
  readonly share: number;
  readonly logit: number | undefined;
  readonly isBest: boolean;
}

function Bar({ kind, share, logit, isBest }: BarProps) {
  return (
    <div
      class={`bar ${kind}${isBest ? " best" : ""}`}
      data-logit={logit}
      title={logit === undefined ? "" : `logit ${decimal(logit, 3)}`}
    >
      <span class="fill" style={{ transform: `scaleX(${share.toFixed(4)})` }} />
      <span class="value">
        <span class="visually-hidden">{kind === "base" ? "base " : "adapted "}</span>
        {percent(share)}
      </span>
    </div>
  );
}

/** What is going on, in one sentence. */
export function Sentence(): VNode {
  const [about, current, mixed] = [opened.value, prediction.value, composed.value];
  if (about === null) return <p class="sentence" />;
  const frozen = `The base, ${count(about.parameters)} frozen weights,`;
  if (current === null) {
    return (
      <p class="sentence">
        {frozen} {pixels.value === null ? "waits for a digit: draw one." : "reads the digit on the board …"}
      </p>
    );
  }
  const base = shares(current.base);
  const read = largest(base);
  const before = (
    <>
      {frozen} reads this as <b class="base-text">{read}</b> ({percent(base[read]!)})
    </>
  );
  if (mix.value.parts.length === 0 || mixed === null) {
    return (
      <p class="sentence">
        {before}; {parts.value.length === 0 ? "no adapter is chosen" : "the adapter is off"}, so that nothing is added.
      </p>
    );
  }
  const own = labels.value;
  if (current.adapted.length !== (own?.length ?? 10)) return <p class="sentence">{before}.</p>;
  const adapted = shares(current.adapted);
  const after = largest(adapted);
  const [only, ...others] = mix.value.parts.map(({ id }) => shelf.value.find((item) => item.id === id)?.name ?? id);
  const whose = others.length === 0 ? `the adapter “${only}”` : `${others.length + 1} adapters`;
  const isMended = truth.value !== null && read !== truth.value && after === truth.value && own === null;
  return (
    <p class="sentence">
      {before}. Add {whose}, {count(mixed.parameters)} numbers more ({percent(mixed.parameters / about.parameters, 2)}),
      and it reads <b class="accent-text">{own?.[after] ?? after}</b> ({percent(adapted[after]!)})
      {isMended ? ", which is what was meant." : "."}
    </p>
  );
}
