// Matrices and digits on a canvas, in the page's own colours: blue below zero, the accent above it.
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { side } from "../digit/bytes.ts";
import type { Picture } from "../protocol.ts";
import { theme } from "../state/theme.ts";

type Colour = readonly [red: number, green: number, blue: number];

/** A custom property of the page's style sheet, as numbers. */
function colour(name: string): Colour {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Style sheets are shortened when they are built: #ffffff becomes #fff.
  const digits = text.length === 4 ? [...text.slice(1)].map((digit) => digit + digit).join("") : text.slice(1);
  const value = Number.parseInt(digits, 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

interface MatrixProps {
  readonly picture: Picture;
  readonly label: string;
  readonly class?: string;
}

interface SpotProps extends MatrixProps {
  /** Where the marked row and column are, as shares of the matrix from 0 to 1; undefined for a factor that lacks one of them. */
  readonly spot: { readonly row?: number | undefined; readonly column?: number | undefined };
  readonly onPoint: (row: number, column: number) => void;
}

/** A matrix with one row and column marked, which can be pointed at. */
export function SpottedMatrix({ spot, onPoint, class: className = "matrix", ...matrix }: SpotProps): VNode {
  const point = (event: PointerEvent): void => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const share = (value: number): number => Math.min(0.9999, Math.max(0, value));
    onPoint(share((event.clientY - box.top) / box.height), share((event.clientX - box.left) / box.width));
  };
  return (
    <div class={`${className} spotted`} onPointerMove={point} onPointerDown={point}>
      <MatrixCanvas {...matrix} class="fill-frame" />
      {spot.row !== undefined && <span class="spot-row" style={{ top: `${100 * spot.row}%` }} />}
      {spot.column !== undefined && <span class="spot-column" style={{ left: `${100 * spot.column}%` }} />}
    </div>
  );
}

/** A matrix; `label` says in words what is to be seen. */
export function MatrixCanvas({ picture, label, class: className = "matrix" }: MatrixProps): VNode {
  const canvas = useRef<HTMLCanvasElement>(null);
  const current = theme.value;
  useEffect(() => {
    if (canvas.current !== null) paint(canvas.current, picture);
  }, [picture, current]);
  return <canvas ref={canvas} class={className} role="img" aria-label={label} />;
}

function paint(canvas: HTMLCanvasElement, { values, width, height, limit }: Picture): void {
  canvas.width = Math.max(1, width);
  canvas.height = Math.max(1, height);
  if (width * height === 0) return;
  const [low, zero, high] = [colour("--negative"), colour("--zero"), colour("--positive")];
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, height);
  for (const [at, value] of values.entries()) {
    const share = limit === 0 ? 0 : Math.min(1, Math.abs(value) / limit);
    const end = value < 0 ? low : high;
    for (let part = 0; part < 3; part++) image.data[4 * at + part] = zero[part]! + share * (end[part]! - zero[part]!);
    image.data[4 * at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

interface DigitProps {
  readonly pixels: Uint8Array;
  readonly label?: string;
  readonly class?: string;
}

/** A digit of 28 x 28, in ink on paper. */
export function DigitCanvas({ pixels, label, class: className = "digit" }: DigitProps): VNode {
  const canvas = useRef<HTMLCanvasElement>(null);
  const current = theme.value;
  useEffect(() => {
    if (canvas.current !== null) paintDigit(canvas.current, pixels);
  }, [pixels, current]);
  const about = label === undefined ? { "aria-hidden": true as const } : { role: "img" as const, "aria-label": label };
  return <canvas ref={canvas} class={className} width={side} height={side} {...about} />;
}

/** Ink shows as the text's colour; transparent where there is none. */
export function paintDigit(canvas: HTMLCanvasElement, pixels: Uint8Array): void {
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(side, side);
  const [red, green, blue] = colour("--ink");
  for (const [at, value] of pixels.entries()) image.data.set([red, green, blue, value], 4 * at);
  context.putImageData(image, 0, 0);
}
