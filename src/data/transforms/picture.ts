// One image while it is transformed, and what several transforms need: warping, Gaussian blur, work on each channel.
// Conventions are those of the libraries that MNIST-C was made with: pixel centres at whole coordinates, blurs cut off at
// four standard deviations.
import type { Random } from "../../random.ts";

/** An image of any size; values from 0 (background) to 1, row by row, the channels of a pixel side by side. */
export interface Picture {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly pixels: Float32Array; // [height, width, channels]
}

/** Makes a new picture of the same size. What it draws, it draws from `random`, once for all channels where it can. */
export type PictureTransform = (picture: Picture, random: Random) => Picture;

/** Input coordinates of an output pixel: x' = a x + b y + c, y' = d x + e y + f. */
export type AffineMap = readonly [a: number, b: number, c: number, d: number, e: number, f: number];

/** The same size with other pixels. */
export function withPixels(picture: Picture, pixels: Float32Array): Picture {
  return { ...picture, pixels };
}

export function clip(value: number): number {
  return value < 0 ? 0 : value > 1 ? 1 : value;
}

/** Each value on its own. */
export function mapPixels(picture: Picture, change: (value: number) => number): Picture {
  return withPixels(picture, picture.pixels.map(change));
}

/** Applies `change` to each channel as a plane [height, width]. */
export function mapPlanes(picture: Picture, change: (plane: Float32Array, channel: number) => Float32Array): Picture {
  const { channels, pixels } = picture;
  if (channels === 1) return withPixels(picture, change(pixels, 0));
  const result = new Float32Array(pixels.length);
  for (let channel = 0; channel < channels; channel++) {
    const plane = Float32Array.from({ length: pixels.length / channels }, (_, at) => pixels[at * channels + channel]!);
    change(plane, channel).forEach((value, at) => {
      result[at * channels + channel] = value;
    });
  }
  return withPixels(picture, result);
}

/** Resamples by a linear map about the image's centre, bilinear, with zeros outside. */
export function warp(picture: Picture, [a, b, shiftX, d, e, shiftY]: AffineMap): Picture {
  const { height, width } = picture;
  const [middleX, middleY] = [(width - 1) / 2, (height - 1) / 2];
  return mapPlanes(picture, (plane) => {
    const result = new Float32Array(plane.length);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const fromX = a * (x - middleX) + b * (y - middleY) + middleX + shiftX;
        const fromY = d * (x - middleX) + e * (y - middleY) + middleY + shiftY;
        result[at] = bilinear(plane, height, width, fromX, fromY);
      }
    }
    return result;
  });
}

function bilinear(plane: Float32Array, height: number, width: number, x: number, y: number): number {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  if (left < -1 || top < -1 || left >= width || top >= height) return 0;
  const [right, down] = [x - left, y - top];
  const hasLeft = left >= 0;
  const hasRight = left + 1 < width;
  const row = top * width + left;
  let upper = 0;
  let lower = 0;
  if (top >= 0) upper = (hasLeft ? plane[row]! * (1 - right) : 0) + (hasRight ? plane[row + 1]! * right : 0);
  if (top + 1 < height) {
    const below = row + width;
    lower = (hasLeft ? plane[below]! * (1 - right) : 0) + (hasRight ? plane[below + 1]! * right : 0);
  }
  return upper * (1 - down) + lower * down;
}

/** What lies beyond the edge: the nearest pixel again, or zero. */
export type Edge = "nearest" | "zero";

/** Gaussian weights from -radius to radius, radius = 4 sigma rounded, with the sum 1. */
function gaussianWeights(sigma: number): Float64Array {
  const radius = Math.floor(4 * sigma + 0.5);
  const weights = Float64Array.from({ length: 2 * radius + 1 }, (_, at) =>
    Math.exp(-((at - radius) ** 2) / (2 * sigma * sigma)),
  );
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/** Blurs a plane [height, width] along its columns ("y"), or along both axes. */
export function gaussianBlur(
  plane: Float32Array,
  { height, width }: { readonly height: number; readonly width: number },
  sigma: number,
  { axes = "xy", edge = "nearest" }: { readonly axes?: "xy" | "y"; readonly edge?: Edge } = {},
): Float32Array {
  const weights = gaussianWeights(sigma);
  const vertical = convolve(plane, weights, width, height, { step: width, across: 1 }, edge);
  return axes === "y" ? vertical : convolve(vertical, weights, height, width, { step: 1, across: width }, edge);
}

/** Convolves `lines` lines of `length` values; neighbours on a line are `step` apart, lines `across`. */
function convolve(
  plane: Float32Array,
  weights: Float64Array,
  lines: number,
  length: number,
  { step, across }: { readonly step: number; readonly across: number },
  edge: Edge,
): Float32Array {
  const radius = (weights.length - 1) / 2;
  const padded = new Float64Array(length + 2 * radius); // a line and what lies beyond its ends
  const result = new Float32Array(plane.length);
  for (let line = 0; line < lines; line++) {
    const start = line * across;
    for (let at = 0; at < length; at++) padded[at + radius] = plane[start + at * step]!;
    if (edge === "nearest") {
      padded.fill(padded[radius]!, 0, radius);
      padded.fill(padded[radius + length - 1]!, radius + length);
    }
    for (let at = 0; at < length; at++) {
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap++) sum += weights[tap]! * padded[at + tap]!;
      result[start + at * step] = sum;
    }
  }
  return result;
}
