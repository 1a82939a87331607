// Edges by Canny 1986 (doi:10.1109/TPAMI.1986.4767851), with the parameters that MNIST-C has them with (Mu & Gilmer 2019,
// arXiv:1906.02337): a Gaussian of 1 pixel, Sobel's gradient, maxima across the edge, thresholds 0.1 and 0.2.
import { gaussianBlur, mapPlanes, type Picture } from "./picture.ts";

const sigma = 1;
const lowThreshold = 0.1;
const highThreshold = 0.2;

/** 1 on edges, 0 elsewhere; for each channel. */
export function cannyEdges(picture: Picture): Picture {
  const { height, width } = picture;
  return mapPlanes(picture, (plane) => {
    const smooth = smoothed(plane, picture);
    const { x, y, strength } = sobel(smooth, height, width);
    return linked(maxima(x, y, strength, height, width), strength, width);
  });
}

/** A blur that knows no pixels outside: their weight goes to those inside. */
function smoothed(plane: Float32Array, picture: Picture): Float32Array {
  const blurred = gaussianBlur(plane, picture, sigma, { edge: "zero" });
  const inside = gaussianBlur(new Float32Array(plane.length).fill(1), picture, sigma, { edge: "zero" });
  return blurred.map((value, at) => value / inside[at]!);
}

function sobel(plane: Float32Array, height: number, width: number) {
  const x = new Float32Array(plane.length);
  const y = new Float32Array(plane.length);
  const strength = new Float32Array(plane.length);
  for (let row = 1; row < height - 1; row++) {
    for (let column = 1; column < width - 1; column++) {
      const at = row * width + column;
      const near = (dy: number, dx: number): number => plane[at + dy * width + dx]!;
      x[at] = near(-1, 1) + 2 * near(0, 1) + near(1, 1) - near(-1, -1) - 2 * near(0, -1) - near(1, -1);
      y[at] = near(1, -1) + 2 * near(1, 0) + near(1, 1) - near(-1, -1) - 2 * near(-1, 0) - near(-1, 1);
    }
  }
  for (let at = 0; at < plane.length; at++) strength[at] = Math.hypot(x[at]!, y[at]!);
  // The border has no maxima, but the pixels beside it are compared with it: there the edge pixels go on.
  borderStrength(plane, strength, height, width);
  return { x, y, strength };
}

function borderStrength(plane: Float32Array, strength: Float32Array, height: number, width: number): void {
  const near = (row: number, column: number): number =>
    plane[Math.min(Math.max(row, 0), height - 1) * width + Math.min(Math.max(column, 0), width - 1)]!;
  for (let row = 0; row < height; row++) {
    const isEdgeRow = row === 0 || row === height - 1;
    for (let column = 0; column < width; column += isEdgeRow ? 1 : Math.max(1, width - 1)) {
      let [x, y] = [0, 0];
      for (let offset = -1; offset <= 1; offset++) {
        const weight = 2 - Math.abs(offset);
        x += weight * (near(row + offset, column + 1) - near(row + offset, column - 1));
        y += weight * (near(row + 1, column + offset) - near(row - 1, column + offset));
      }
      strength[row * width + column] = Math.hypot(x, y);
    }
  }
}

/** Where the strength is largest along the gradient; between two neighbours it is interpolated. */
function maxima(x: Float32Array, y: Float32Array, strength: Float32Array, height: number, width: number): Uint8Array {
  const found = new Uint8Array(strength.length);
  for (let row = 1; row < height - 1; row++) {
    for (let column = 1; column < width - 1; column++) {
      const at = row * width + column;
      const own = strength[at]!;
      if (own < lowThreshold) continue;
      const [dx, dy] = [x[at]!, y[at]!];
      const isSteep = Math.abs(dy) > Math.abs(dx);
      const share = isSteep ? Math.abs(dx / dy) : Math.abs(dy / dx);
      const straight = isSteep ? Math.sign(dy) * width : Math.sign(dx);
      // With no slope at all, either diagonal has the weight 0.
      const diagonal = (Math.sign(dx) || 1) + (Math.sign(dy) || 1) * width;
      const ahead = strength[at + straight]! * (1 - share) + strength[at + diagonal]! * share;
      const behind = strength[at - straight]! * (1 - share) + strength[at - diagonal]! * share;
      if (own >= ahead && own >= behind) found[at] = 1;
    }
  }
  return found;
}

/** Hysteresis: maxima over the high threshold, and all that hang together with them. */
function linked(found: Uint8Array, strength: Float32Array, width: number): Float32Array {
  const edges = new Float32Array(found.length);
  const open: number[] = [];
  const take = (at: number): void => {
    if (found[at] !== 1 || edges[at] === 1) return;
    edges[at] = 1;
    open.push(at);
  };
  for (let at = 0; at < found.length; at++) if (strength[at]! >= highThreshold) take(at);
  // Maxima lie off the border, so that all eight neighbours are in the image.
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) take(at + dy * width + dx);
  }
  return edges;
}
