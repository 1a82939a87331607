// MNIST-C's fog (Mu & Gilmer 2019, arXiv:1906.02337): plasma from the diamond-square algorithm (Fournier, Fussell &
// Carpenter 1982, doi:10.1145/358523.358553) on a torus of 256 x 256, of which the image sees a corner.
import type { Random } from "../../random.ts";
import { clip, mapPlanes, type PictureTransform } from "./picture.ts";

const leastSide = 256;
/** Of the first displacement; displacements are the product of it and a number drawn up to it. */
const firstAmplitude = 100;

/** Adds `amount` of plasma, and scales the sum so that the brightest value stays within what it was. */
export function fog(amount: number, decay: number): PictureTransform {
  return (picture, random) => {
    const { height, width, pixels } = picture;
    let side = leastSide;
    while (side < Math.max(height, width)) side *= 2;
    const { heights, least, most } = plasmaFractal(side, decay, random);
    const cloud = new Float32Array(height * width);
    for (let y = 0, at = 0; y < height; y++)
      for (let x = 0; x < width; x++, at++) cloud[at] = (heights[y * side + x]! - least) / (most - least);
    const brightest = pixels.reduce((largest, value) => Math.max(largest, value), 0);
    const factor = brightest / (brightest + amount);
    return mapPlanes(picture, (plane) => plane.map((value, at) => clip((value + amount * cloud[at]!) * factor)));
  };
}

interface Plasma {
  readonly heights: Float32Array; // [side, side]
  readonly least: number;
  readonly most: number;
}

/** Heights on a torus; side is a power of two. */
function plasmaFractal(side: number, decay: number, random: Random): Plasma {
  const heights = new Float32Array(side * side);
  let amplitude = firstAmplitude;
  for (let step = side; step >= 2; step /= 2) {
    const noise = amplitude * amplitude;
    fillCentres(heights, side, step, noise, random);
    fillEdges(heights, side, step, noise, random);
    amplitude /= decay;
  }
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let at = 0; at < heights.length; at++) {
    least = Math.min(least, heights[at]!);
    most = Math.max(most, heights[at]!);
  }
  return { heights, least, most };
}

/** The "diamond" half of a round: the centre of each square is the mean of its corners and noise. */
function fillCentres(heights: Float32Array, side: number, step: number, noise: number, random: Random): void {
  const mask = side - 1;
  const half = step / 2;
  const draws = random.fillUint32(new Uint32Array((side / step) ** 2));
  let drawn = 0;
  for (let y = half; y < side; y += step) {
    const [above, own, below] = [(y - half) * side, y * side, ((y + half) & mask) * side];
    for (let x = half; x < side; x += step) {
      const [left, right] = [x - half, (x + half) & mask];
      const sum = heights[above + left]! + heights[above + right]! + heights[below + left]! + heights[below + right]!;
      heights[own + x] = sum / 4 + noise * signed(draws[drawn++]!);
    }
  }
}

/** The "square" half: the middle of each edge is the mean of the four points around it and noise. */
function fillEdges(heights: Float32Array, side: number, step: number, noise: number, random: Random): void {
  const mask = side - 1;
  const half = step / 2;
  const draws = random.fillUint32(new Uint32Array(2 * (side / step) ** 2));
  let drawn = 0;
  for (let y = 0; y < side; y += half) {
    const [above, own, below] = [((y - half) & mask) * side, y * side, ((y + half) & mask) * side];
    for (let x = y % step === 0 ? half : 0; x < side; x += step) {
      const [left, right] = [(x - half) & mask, (x + half) & mask];
      const sum = heights[above + x]! + heights[own + left]! + heights[own + right]! + heights[below + x]!;
      heights[own + x] = sum / 4 + noise * signed(draws[drawn++]!);
    }
  }
}

/** 32 random bits as a number in [-1, 1). */
function signed(bits: number): number {
  return (bits / 2 ** 32) * 2 - 1;
}
