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
    const plasma = plasmaFractal(side, decay, random);
    const brightest = pixels.reduce((most, value) => Math.max(most, value), 0);
    const factor = brightest / (brightest + amount);
    return mapPlanes(picture, (plane) =>
      plane.map((value, at) => {
        const cloud = plasma[Math.floor(at / width) * side + (at % width)]!;
        return clip((value + amount * cloud) * factor);
      }),
    );
  };
}

/** Heights from 0 to 1, [side, side]; side is a power of two. */
export function plasmaFractal(side: number, decay: number, random: Random): Float32Array {
  const heights = new Float32Array(side * side);
  const mask = side - 1;
  let amplitude = firstAmplitude;
  const noise = (): number => amplitude * amplitude * ((random.uint32() / 2 ** 32) * 2 - 1);
  const at = (y: number, x: number): number => heights[(y & mask) * side + (x & mask)]!;
  // Of a point: the mean of the four around it at a distance, on the diagonals or the axes.
  for (let step = side; step >= 2; step /= 2) {
    const half = step / 2;
    for (let y = half; y < side; y += step)
      for (let x = half; x < side; x += step) {
        const sum = at(y - half, x - half) + at(y - half, x + half) + at(y + half, x - half) + at(y + half, x + half);
        heights[y * side + x] = sum / 4 + noise();
      }
    for (let y = 0; y < side; y += half)
      for (let x = y % step === 0 ? half : 0; x < side; x += step) {
        const sum = at(y - half, x) + at(y + half, x) + at(y, x - half) + at(y, x + half);
        heights[y * side + x] = sum / 4 + noise();
      }
    amplitude /= decay;
  }
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const height of heights) {
    if (height < least) least = height;
    if (height > most) most = height;
  }
  for (let index = 0; index < heights.length; index++) heights[index] = (heights[index]! - least) / (most - least);
  return heights;
}
