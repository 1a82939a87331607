// What the other digits pay: every class before and after.
import type { VNode } from "preact";
import type { Measured } from "../protocol.ts";
import { measured, parts, prediction, shelf, truth } from "../state/store.ts";
import { largest, percent, shares, signed } from "../ui/format.ts";

/** Every digit's accuracy before and after: what one digit's gain costs the others. */
export function Price(): VNode | null {
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
    <div class="block" id="pay">
      <h3 id="pay-title">{current.base === null ? "How your symbols do" : "What the other digits pay"}</h3>
      <p class="note">
        Percent read right
        {current.base === null ? " of your examples" : `, of ${total(current.counts)} test digits that no training saw`}
        .
      </p>
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
      <PriceOfDigit current={current} names={names} />
    </div>
  );
}

/** The row of the class that is on the board. */
function PriceOfDigit({ current, names }: { current: Measured; names: readonly string[] }) {
  const seen = prediction.value;
  const at = truth.value ?? (seen?.adapted.length === names.length ? largest(shares(seen.adapted)) : null);
  const asked = at === null ? 0 : (current.counts[at] ?? 0);
  if (at === null || asked === 0) return null;
  const [before, after] = [current.base === null ? null : asked - current.base[at]!, asked - current.adapted[at]!];
  return (
    <p class="formula">
      price = right with the adapter − right without
      <span>
        For {names[at]}, which is on the board: {after} of {asked} {before !== null && `− ${before} of ${asked} = `}
        {before !== null && `${signed((100 * (after - before)) / asked, 0)} points`}.
      </span>
    </p>
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
