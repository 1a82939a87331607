// The digit in a picture's pixels: made grey, turned to light ink on dark paper, cut to the ink, and then scaled and centred as
// MNIST's digits were (drawing.ts).
import { pixelCount, side } from "./bytes.ts";
import { centreOfMass } from "./drawing.ts";

const boxSide = 20;

/** Ink below this share of the darkest is paper, or its shadow. */
const threshold = 0.35;

/** The digit in pixels [height, width, 4]. A picture of 28 x 28 with light ink is taken as it is. */
export function digitOfPixels(rgba: Uint8ClampedArray, width: number): Uint8Array {
  const grey = Float32Array.from({ length: rgba.length / 4 }, (_, at) => {
    return (0.299 * rgba[4 * at]! + 0.587 * rgba[4 * at + 1]! + 0.114 * rgba[4 * at + 2]!) / 255;
  });
  const height = grey.length / width;
  const isLight = borderMean(grey, width, height) > 0.5;
  if (!isLight && width === side && height === side) return Uint8Array.from(grey, (value) => Math.round(255 * value));
  const raw = isLight ? grey.map((value) => 1 - value) : grey;
  const [least, most] = [minimum(raw), -minimum(raw.map((value) => -value))];
  const ink = raw.map((value) => (value - least) / (most - least));
  if (!(most - least > 0.1))
    throw new Error("There is nothing on this picture: take one with a dark digit on light paper.");
  const cut = ink.map((value) => (value < threshold ? 0 : value));
  return placed(cut, width, boxOf(cut, width));
}

interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

function boxOf(ink: Float32Array, width: number): Box {
  let box: Box = { left: width, top: ink.length / width, right: 0, bottom: 0 };
  for (const [at, value] of ink.entries()) {
    if (value === 0) continue;
    const [column, row] = [at % width, Math.floor(at / width)];
    box = {
      left: Math.min(box.left, column),
      top: Math.min(box.top, row),
      right: Math.max(box.right, column + 1),
      bottom: Math.max(box.bottom, row + 1),
    };
  }
  return box;
}

/** The box, its larger side at 20 pixels, with its centre of mass in the middle. */
function placed(ink: Float32Array, width: number, box: Box): Uint8Array {
  const [across, down] = [box.right - box.left, box.bottom - box.top];
  const scale = boxSide / Math.max(across, down);
  const at = (left: number, top: number): Uint8Array => {
    const bytes = new Uint8Array(pixelCount);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const from = { x: box.left + (column - left) / scale, y: box.top + (row - top) / scale };
        bytes[row * side + column] = Math.round(255 * areaMean(ink, width, box, from, 1 / scale));
      }
    }
    return bytes;
  };
  const first = at((side - across * scale) / 2, (side - down * scale) / 2);
  const mass = centreOfMass(first);
  return at((side - across * scale) / 2 + side / 2 - mass.x, (side - down * scale) / 2 + side / 2 - mass.y);
}

/** The mean over a square of the picture; outside the box is paper. */
function areaMean(
  ink: Float32Array,
  width: number,
  box: Box,
  { x, y }: { x: number; y: number },
  size: number,
): number {
  const samples = Math.max(2, Math.ceil(size));
  let sum = 0;
  for (let i = 0; i < samples; i++) {
    for (let j = 0; j < samples; j++) {
      const [column, row] = [
        Math.floor(x + ((j + 0.5) / samples) * size),
        Math.floor(y + ((i + 0.5) / samples) * size),
      ];
      if (column < box.left || column >= box.right || row < box.top || row >= box.bottom) continue;
      sum += ink[row * width + column]!;
    }
  }
  return sum / samples ** 2;
}

function borderMean(grey: Float32Array, width: number, height: number): number {
  let [sum, count] = [0, 0];
  for (const [at, value] of grey.entries()) {
    const [column, row] = [at % width, Math.floor(at / width)];
    if (column > 0 && row > 0 && column < width - 1 && row < height - 1) continue;
    sum += value;
    count++;
  }
  return sum / count;
}

function minimum(values: Float32Array): number {
  return values.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
}
