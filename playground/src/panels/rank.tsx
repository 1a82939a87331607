// What each rank buys: the adapter cut to its largest singular values, live.
import type { VNode } from "preact";
import { composed, rank, rankCurve, traced } from "../state/store.ts";
import { Chart } from "../ui/chart.tsx";
import { count, decimal, percent } from "../ui/format.ts";

export function Rank(): VNode {
  const points = rankCurve.value;
  const most = points.at(-1)?.rank ?? 1;
  const spectrum = composed.value?.spectrum ?? [];
  const own = rank.value === null ? most : Math.min(rank.value, most);
  const here = points.find((point) => point.rank === own);
  const hasExamples = points.some(({ examples }) => examples !== null);
  const lengths = traced.value?.lengths;
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
            : `${percent(1 - here.relativeError ** 2, 1)} of the squared singular values are kept, in ${count(here.parameters)} numbers.`}
        </span>
        {lengths !== undefined && lengths.whole > 0 && (
          <span>
            On this digit: ‖s B A x‖ in fc1 is {decimal(lengths.kept)} of {decimal(lengths.whole)} with all of them.
          </span>
        )}
      </p>
    </div>
  );
}
