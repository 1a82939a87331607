// What draws the charts: uPlot, loaded when the first chart is shown.
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { ChartProps } from "./chart.tsx";

/** Steps and ranks are counted: no axis has a half. */
const wholeSteps: number[] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

export interface Plot {
  /** New values for the same lines. */
  show(props: ChartProps): void;
  destroy(): void;
}

/** A chart that fills `host`, and goes with its width. */
export function createPlot(host: HTMLElement, props: ChartProps): Plot {
  const plot = new uPlot(optionsOf(props, host.clientWidth), dataOf(props), host);
  const observer = new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height: props.height ?? 180 }));
  observer.observe(host);
  return {
    show: (next) => plot.setData(dataOf(next)),
    destroy: () => {
      observer.disconnect();
      plot.destroy();
    },
  };
}

function dataOf({ x, lines }: ChartProps): uPlot.AlignedData {
  return [[...x], ...lines.map(({ values }) => [...values])] as uPlot.AlignedData;
}

function optionsOf({ xLabel, lines, height = 180 }: ChartProps, width: number): uPlot.Options {
  const styles = getComputedStyle(document.documentElement);
  const read = (name: string): string => styles.getPropertyValue(name).trim();
  const [ink, grid] = [read("--muted"), { stroke: read("--line"), width: 1 }];
  const axis = {
    stroke: ink,
    grid,
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
    labelFont: "12px system-ui, sans-serif",
  };
  const hasShare = lines.some(({ isShare }) => isShare === true);
  const hasValue = lines.some(({ isShare }) => isShare !== true);
  const asPercent = (_: uPlot, values: number[]): string[] => values.map((value) => `${Math.round(100 * value)} %`);
  return {
    width: Math.max(120, width),
    height,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false },
      share: { range: [0, 1.02] },
      y: { range: (_, least, most) => [Math.min(0, least ?? 0), (most ?? 1) * 1.08 || 1] },
    },
    axes: [
      { ...axis, label: xLabel, labelSize: 18, size: 28, grid: { show: false }, incrs: wholeSteps },
      ...(hasValue ? [{ ...axis, size: 46 }] : []),
      ...(hasShare
        ? [
            {
              ...axis,
              scale: "share",
              side: hasValue ? 1 : 3,
              size: 46,
              values: asPercent,
              grid: hasValue ? { show: false } : grid,
            },
          ]
        : []),
    ] as uPlot.Axis[],
    series: [
      {},
      ...lines.map(({ label, colour, points = false, dash = false, isShare = false }) => ({
        label,
        stroke: read(colour),
        width: 2,
        scale: isShare ? "share" : "y",
        spanGaps: true,
        points: { show: points, size: 6, fill: read(colour) },
        ...(dash && { dash: [5, 4] }),
      })),
    ],
  };
}
