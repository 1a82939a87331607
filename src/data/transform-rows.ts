// `--transform` on data of one's own: the images of a batch's rows, changed before they are normalized. An image draws from the
// stream of its row's number, so that it is changed in the same way in every pass.
import { channelLayout, type Field } from "./fields.ts";
import type { Cell, Row } from "./table.ts";
import { type ImageTransform, transformImages } from "./transforms/transforms.ts";

export interface RowTransform {
  readonly transform: ImageTransform;
  /** Default 0. */
  readonly seed?: number;
}

/** New rows with changed images, from the rows of a batch and their numbers in the table. */
export type RowTransformer = (rows: readonly Row[], numbers: readonly number[]) => readonly Row[];

interface Shape {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  /** [C, H, W] with several channels. */
  readonly isPlanar: boolean;
}

/** For the one field that reads images, bytes or floats from 0 to 1; or what is wrong when there is not one. */
export function rowTransformer(
  fields: readonly Field[],
  sample: Row,
  { transform, seed = 0 }: RowTransform,
): RowTransformer | string {
  const found = fields.flatMap(({ columns, dims }) => {
    const shape = columns.length === 1 && isImage(sample[columns[0]!]) ? imageShape(dims) : null;
    return shape === null ? [] : [{ column: columns[0]!, shape }];
  });
  if (found.length !== 1) {
    return `transform: expected one input of images ([C, H, W], [H, W, C], [H, W] or square), got ${found.length}`;
  }
  const { column, shape } = found[0]!;
  return (rows, numbers) =>
    rows.map((row, at) => {
      const cells: Cell[] = Array.from(row);
      const pixels = row[column] as Uint8Array | Float32Array;
      const data = shape.isPlanar ? reordered(pixels, shape, true) : pixels;
      const changed = transformImages({ ...shape, data }, transform, { seed, first: numbers[at]! });
      cells[column] = shape.isPlanar ? reordered(changed, shape, false) : changed;
      return cells;
    });
}

function isImage(cell: Cell | undefined): boolean {
  return cell instanceof Uint8Array || cell instanceof Float32Array;
}

function imageShape(dims: readonly number[]): Shape | null {
  const layout = channelLayout(dims);
  if (layout) {
    const [height, width] = layout.last ? [dims[0]!, dims[1]!] : [dims[1]!, dims[2]!];
    return { height, width, channels: layout.channels, isPlanar: !layout.last && layout.channels > 1 };
  }
  if (dims.length === 2) return { height: dims[0]!, width: dims[1]!, channels: 1, isPlanar: false };
  const side = Math.sqrt(dims[0] ?? 0.5);
  return dims.length === 1 && Number.isInteger(side)
    ? { height: side, width: side, channels: 1, isPlanar: false }
    : null;
}

/** [C, H, W] as [H, W, C] (`last`), or back. */
function reordered<T extends Uint8Array | Float32Array>(
  pixels: T,
  { height, width, channels }: Shape,
  last: boolean,
): T {
  const count = height * width;
  const result = pixels.slice() as T;
  for (let c = 0; c < channels; c++) {
    for (let at = 0; at < count; at++) {
      const [planar, interleaved] = [c * count + at, at * channels + c];
      if (last) result[interleaved] = pixels[planar]!;
      else result[planar] = pixels[interleaved]!;
    }
  }
  return result;
}
