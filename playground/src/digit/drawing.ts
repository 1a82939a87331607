// A drawing is strokes: lists of points in the units of a 28 x 28 grid. Made into a digit as MNIST's were (LeCun et al. 1998,
// "Gradient-based learning applied to document recognition", III.A): the box around it is scaled to 20 x 20, keeping its
// proportions, and its centre of mass is put into the middle of 28 x 28. The pen keeps its width whatever the scale, since people
// draw small digits with the pen that they draw large ones with.
import { pixelCount, side } from "./bytes.ts";

export interface Point {
  readonly x: number;
  readonly y: number;
}

export type Stroke = readonly Point[];

/** Half the pen's width, in pixels of the finished digit: MNIST's strokes are two to three pixels wide. */
const penRadius = 1.15;

/** What a digit's larger side is scaled to. */
const boxSide = 20;

/** A digit is not drawn larger than it was by more than this: a dot stays a dot. */
const mostGrowth = 4;

/** The digit as bytes [784], 0 is paper and 255 ink; null for an empty drawing. */
export function digitOf(strokes: readonly Stroke[]): Uint8Array | null {
  const points = strokes.flat();
  if (points.length === 0) return null;
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const extent = Math.max(Math.max(...xs) - left, Math.max(...ys) - top);
  const scale = Math.min(mostGrowth, (boxSide - 2 * penRadius) / Math.max(extent, 1e-6));
  const placed = strokes.map((stroke) => stroke.map(({ x, y }) => ({ x: (x - left) * scale, y: (y - top) * scale })));
  // Drawn once to find the centre of mass, and again where that is in the middle: shifting pixels would blur them.
  const margin = side / 4;
  const first = rasterized(placed, { x: margin, y: margin });
  const mass = centreOfMass(first);
  const middle = side / 2;
  return rasterized(placed, { x: margin + middle - mass.x, y: margin + middle - mass.y });
}

/** Strokes with round ends, moved by `shift`; edges are softened over a pixel. */
function rasterized(strokes: readonly Stroke[], shift: Point): Uint8Array {
  const bytes = new Uint8Array(pixelCount);
  for (const stroke of strokes) {
    for (const [index, point] of stroke.entries()) {
      const next = stroke[index + 1] ?? point;
      if (index > 0 && index === stroke.length - 1) break;
      inkSegment(bytes, moved(point, shift), moved(next, shift));
    }
  }
  return bytes;
}

function moved({ x, y }: Point, shift: Point): Point {
  return { x: x + shift.x, y: y + shift.y };
}

function inkSegment(bytes: Uint8Array, from: Point, to: Point): void {
  const reach = penRadius + 1;
  const range = (a: number, b: number): [number, number] => [
    Math.max(0, Math.floor(Math.min(a, b) - reach)),
    Math.min(side - 1, Math.ceil(Math.max(a, b) + reach)),
  ];
  const [firstRow, lastRow] = range(from.y, to.y);
  const [firstColumn, lastColumn] = range(from.x, to.x);
  for (let row = firstRow; row <= lastRow; row++) {
    for (let column = firstColumn; column <= lastColumn; column++) {
      const away = distance({ x: column + 0.5, y: row + 0.5 }, from, to);
      const ink = Math.round(255 * Math.min(1, Math.max(0, penRadius + 0.5 - away)));
      const at = row * side + column;
      if (ink > bytes[at]!) bytes[at] = ink;
    }
  }
}

/** From a point to a segment. */
function distance(point: Point, from: Point, to: Point): number {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const square = dx * dx + dy * dy;
  const along = square === 0 ? 0 : ((point.x - from.x) * dx + (point.y - from.y) * dy) / square;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(point.x - from.x - t * dx, point.y - from.y - t * dy);
}

export function centreOfMass(bytes: Uint8Array, width: number = side): Point {
  let [mass, x, y] = [0, 0, 0];
  for (const [at, value] of bytes.entries()) {
    mass += value;
    x += value * ((at % width) + 0.5);
    y += value * (Math.floor(at / width) + 0.5);
  }
  return mass === 0 ? { x: width / 2, y: width / 2 } : { x: x / mass, y: y / mass };
}
