// Thick and thin strokes: grey dilation and erosion (the maximum and the minimum over a disc; Serra 1982, "Image Analysis
// and Mathematical Morphology"), on an image of twice the size, so that half pixels count. Morpho-MNIST (Castro et al. 2019,
// arXiv:1807.01227) thickens and thins digits in this way, on a binary image and by a share of each digit's thickness.
import { mapPlanes, type Picture, type PictureTransform } from "./picture.ts";

/** Sub-pixels along each side of a pixel. */
const finer = 2;

/** Strokes grow by `radius` pixels on each side. */
export function thick(radius: number): PictureTransform {
  return (picture) => morphology(picture, radius, Math.max);
}

/** Strokes lose `radius` pixels on each side. */
export function thin(radius: number): PictureTransform {
  return (picture) => morphology(picture, radius, Math.min);
}

function morphology(picture: Picture, radius: number, better: (a: number, b: number) => number): Picture {
  if (radius === 0) return picture;
  const { height, width } = picture;
  const disc = discOffsets(radius * finer);
  return mapPlanes(picture, (plane) => {
    const large = enlarge(plane, height, width);
    return shrink(extremes(large, height * finer, width * finer, disc, better), height, width);
  });
}

/** The cells of a disc, as steps from its centre. */
function discOffsets(radius: number): [x: number, y: number][] {
  const reach = Math.floor(radius);
  const cells: [number, number][] = [];
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) if (x * x + y * y <= radius * radius) cells.push([x, y]);
  return cells;
}

function extremes(
  plane: Float32Array,
  height: number,
  width: number,
  disc: readonly (readonly [number, number])[],
  better: (a: number, b: number) => number,
): Float32Array {
  const result = plane.slice();
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      let best = plane[at]!;
      for (const [dx, dy] of disc) {
        const [ox, oy] = [x + dx, y + dy];
        // Beyond the edge is nothing to take: strokes that touch it are not eroded from there.
        if (ox >= 0 && oy >= 0 && ox < width && oy < height) best = better(best, plane[oy * width + ox]!);
      }
      result[at] = best;
    }
  }
  return result;
}

/** Linear interpolation to twice the size, with the edge pixels going on. */
function enlarge(plane: Float32Array, height: number, width: number): Float32Array {
  const result = new Float32Array(plane.length * finer * finer);
  const place = (at: number, length: number): [number, number, number] => {
    const from = Math.min(Math.max((at + 0.5) / finer - 0.5, 0), length - 1);
    const before = Math.floor(from);
    return [before, Math.min(before + 1, length - 1), from - before];
  };
  const columns = Array.from({ length: width * finer }, (_, x) => place(x, width));
  for (let y = 0, at = 0; y < height * finer; y++) {
    const [top, bottom, down] = place(y, height);
    for (const [left, right, share] of columns) {
      const upper = plane[top * width + left]! * (1 - share) + plane[top * width + right]! * share;
      const lower = plane[bottom * width + left]! * (1 - share) + plane[bottom * width + right]! * share;
      result[at++] = upper * (1 - down) + lower * down;
    }
  }
  return result;
}

/** Means of the sub-pixels of each pixel. */
function shrink(plane: Float32Array, height: number, width: number): Float32Array {
  const result = new Float32Array(height * width);
  const row = width * finer;
  for (let at = 0; at < plane.length; at++) {
    const y = Math.floor(at / row / finer);
    const x = Math.floor((at % row) / finer);
    result[y * width + x]! += plane[at]! / (finer * finer);
  }
  return result;
}
