// MNIST-C's stripe, dotted line and zigzag (Mu & Gilmer 2019, arXiv:1906.02337). Its lengths are for 28 columns; here they
// are shares of the width and height where they place something, and pixels where they are a stroke's size.
import { clip, mapPlanes, type Picture, type PictureTransform } from "./picture.ts";

/** Inverts the left and the right quarter. */
export function stripe(picture: Picture): Picture {
  const { width } = picture;
  const quarter = Math.floor(width / 4);
  return mapPlanes(picture, (plane) =>
    plane.map((value, at) => (at % width < quarter || at % width >= width - quarter ? 1 - value : value)),
  );
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/** Half the width of a line, where its ink ends. */
const reach = 2.3;

/** A line's ink, [height, width]: 1 + log(1 - d / 2.3) at the vertical distance d, in the columns between its ends. */
function lineInk({ height, width }: Picture, from: Point, to: Point, keeps = (_column: number): boolean => true) {
  const ink = new Float32Array(height * width);
  if (from.x === to.x) return ink;
  const slope = (to.y - from.y) / (to.x - from.x);
  const last = Math.min(width, Math.ceil(to.x));
  for (let x = Math.max(0, Math.floor(from.x)); x < last; x++) {
    if (!keeps(x)) continue;
    const middle = slope * (x - from.x) + from.y;
    for (let y = 0; y < height; y++) {
      const distance = Math.abs(y - middle);
      if (distance < reach) ink[y * width + x] = clip(1 + Math.log(1 - distance / reach));
    }
  }
  return ink;
}

function addInk(picture: Picture, ink: Float32Array): Picture {
  return mapPlanes(picture, (plane) => plane.map((value, at) => clip(value + ink[at]!)));
}

/** A line from the left to the right edge: two columns without ink, two with it. */
export const dottedLine: PictureTransform = (picture, random) => {
  const { height, width } = picture;
  const rows = Math.max(1, height - 1);
  const from = { x: 0, y: random.integer(rows) };
  const to = { x: width - 1, y: random.integer(rows) };
  return addInk(
    picture,
    lineInk(picture, from, to, (column) => column % 4 >= 2),
  );
};

/** Half a tooth's length, and its height, in pixels. */
const tooth = 2;

/** A zigzag along a line across the image that rises or falls by at most five rows. */
export const zigzag: PictureTransform = (picture, random) => {
  const { height, width } = picture;
  const [left, right] = [2, width - 3];
  if (right <= left) return picture;
  const start = random.integer(Math.max(1, height - 1));
  const angle = Math.atan((random.integer(10) - 5) / (right - left));
  const points = zigzagPoints((right - left) / Math.cos(angle)).map(({ x, y }) => ({
    x: Math.cos(angle) * x - Math.sin(angle) * y + left,
    y: Math.sin(angle) * x + Math.cos(angle) * y + start,
  }));
  return points.slice(1).reduce((drawn, to, index) => addInk(drawn, lineInk(picture, points[index]!, to)), picture);
};

/** The corners of a zigzag along the x axis, as published: its last tooth ends where the line does. */
function zigzagPoints(length: number): Point[] {
  const points: Point[] = [{ x: 0, y: 0 }];
  const teeth = Math.floor((length - tooth) / (2 * tooth)) + 1;
  for (let index = 0; index < teeth; index++)
    points.push({ x: (2 * index + 1) * tooth, y: index % 2 === 0 ? tooth : -tooth });
  const whole = 2 * tooth * Math.floor(length / (2 * tooth));
  if (length !== whole) points.push({ x: length, y: points.at(-1)!.y / (2 * (length - whole)) });
  return points;
}
