// Thick and thin strokes: grey dilation and erosion (the maximum and the minimum over a disc; Serra 1982, "Image Analysis
// and Mathematical Morphology"), on an image of twice the size, so that half pixels count. Morpho-MNIST (Castro et al. 2019,
// arXiv:1807.01227) thickens and thins digits in this way, on a binary image and by a share of each digit's thickness.
import { mapPlanes, type Picture, type PictureTransform } from "./picture.ts";

/** Sub-pixels along each side of a pixel. */
const finer = 2;

/** Strokes grow by `radius` pixels on each side. */
export function thick(radius: number): PictureTransform {
  return (picture) => morphology(picture, radius, 1);
}

/** Strokes lose `radius` pixels on each side. */
export function thin(radius: number): PictureTransform {
  return (picture) => morphology(picture, radius, -1);
}

/** The maximum over a disc (sign 1), or the minimum (-1): the maximum of the negative. */
function morphology(picture: Picture, radius: number, sign: 1 | -1): Picture {
  if (radius === 0) return picture;
  const { height, width } = picture;
  return mapPlanes(picture, (plane) => {
    const large = enlarge(plane, height, width);
    return shrink(extremes(large, height * finer, width * finer, radius * finer, sign), height, width);
  });
}

function extremes(plane: Float32Array, height: number, width: number, radius: number, sign: 1 | -1): Float32Array {
  const reach = Math.floor(radius);
  // Beyond the edge is nothing to take: strokes that touch it are not eroded from there.
  const wide = width + 2 * reach;
  const padded = new Float32Array(wide * (height + 2 * reach)).fill(Number.NEGATIVE_INFINITY);
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at++) padded[(y + reach) * wide + x + reach] = sign * plane[at]!;
  const result = new Float32Array(plane.length).fill(Number.NEGATIVE_INFINITY);
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      if (dx * dx + dy * dy > radius * radius) continue;
      for (let y = 0, at = 0; y < height; y++) {
        let from = (y + reach + dy) * wide + reach + dx;
        for (const end = at + width; at < end; at++, from++)
          if (padded[from]! > result[at]!) result[at] = padded[from]!;
      }
    }
  }
  for (let at = 0; at < result.length; at++) result[at] = sign * result[at]!;
  return result;
}

/** Linear interpolation to twice the size, with the edge pixels going on. */
function enlarge(plane: Float32Array, height: number, width: number): Float32Array {
  const result = new Float32Array(plane.length * finer * finer);
  const [rows, columns] = [places(height), places(width)];
  for (let y = 0, at = 0; y < height * finer; y++) {
    const [top, bottom, down] = [rows.before[y]! * width, rows.after[y]! * width, rows.share[y]!];
    for (let x = 0; x < width * finer; x++, at++) {
      const [left, right, share] = [columns.before[x]!, columns.after[x]!, columns.share[x]!];
      const upper = plane[top + left]! * (1 - share) + plane[top + right]! * share;
      const lower = plane[bottom + left]! * (1 - share) + plane[bottom + right]! * share;
      result[at] = upper * (1 - down) + lower * down;
    }
  }
  return result;
}

/** For each sub-pixel of a line of `length` pixels: the pixels before and after it, and the share of the latter. */
function places(length: number) {
  const before = new Int32Array(length * finer);
  const after = new Int32Array(length * finer);
  const share = new Float64Array(length * finer);
  for (let at = 0; at < before.length; at++) {
    const from = Math.min(Math.max((at + 0.5) / finer - 0.5, 0), length - 1);
    before[at] = Math.floor(from);
    after[at] = Math.min(before[at]! + 1, length - 1);
    share[at] = from - before[at]!;
  }
  return { before, after, share };
}

/** Means of the sub-pixels of each pixel. */
function shrink(plane: Float32Array, height: number, width: number): Float32Array {
  const result = new Float32Array(height * width);
  const row = width * finer;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      let sum = 0;
      for (let dy = 0; dy < finer; dy++)
        for (let dx = 0; dx < finer; dx++)
          sum = Math.fround(sum + plane[(y * finer + dy) * row + x * finer + dx]! / (finer * finer));
      result[at] = sum;
    }
  }
  return result;
}
