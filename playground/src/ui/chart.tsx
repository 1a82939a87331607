// Charts by uPlot in the page's colours, each with a sentence for those who do not see it.
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { report } from "../state/store.ts";
import { theme } from "../state/theme.ts";
import type { Plot } from "./plot.ts";

export interface Line {
  readonly label: string;
  /** A custom property with its colour. */
  readonly colour: string;
  readonly values: readonly (number | null)[];
  readonly points?: boolean;
  readonly dash?: boolean;
  /** On the right axis, a share from 0 to 1. */
  readonly isShare?: boolean;
}

export interface ChartProps {
  readonly x: readonly number[];
  readonly xLabel: string;
  readonly lines: readonly Line[];
  /** What is to be seen, in words. */
  readonly summary: string;
  readonly height?: number;
}

/** Redrawn whole when lines come or go, fed otherwise. */
export function Chart(props: ChartProps): VNode {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<Plot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  // A plot lives as long as its lines and colours do.
  const shape = `${theme.value} ${props.xLabel} ${props.lines.map(({ label }) => label).join()}`;
  useEffect(() => {
    let isGone = false;
    import("./plot.ts").then(({ createPlot }) => {
      if (!isGone && host.current !== null) plot.current = createPlot(host.current, latest.current);
    }, report);
    return () => {
      isGone = true;
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.show(props), [props.x, props.lines]);
  return (
    <figure class="chart">
      <div ref={host} aria-hidden="true" />
      <figcaption>
        <span class="legend" aria-hidden="true">
          {props.lines.map(({ label, colour, dash = false }) => (
            <span key={label} class={`key key-${colour.slice(2)}${dash ? " dashed" : ""}`}>
              {label}
            </span>
          ))}
        </span>
        <span class="visually-hidden">{props.summary}</span>
      </figcaption>
    </figure>
  );
}
