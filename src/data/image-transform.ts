// A transform of images (transforms/) on the rows of a data set: which column holds images, in which layout, and what comes out
// for each row. The row's number is the image's position, so that a row is the same image in every pass, order and selection.
import { LowrankError } from "../errors.ts";
import { channelLayout } from "./fields.ts";
import type { Cell, Column, Row } from "./table.ts";
import { type ImageTransform, transformImages } from "./transforms/transforms.ts";

/** Makes rows whose images are transformed. */
export type RowTransform = (rows: readonly Row[], numbers: readonly number[]) => readonly Row[];

export interface ImageColumn {
  readonly column: number;
  /** [H, W], [C, H, W] or [H, W, C], as the cells are. */
  readonly dims: readonly number[];
}

/** Transformed images up to so many bytes are kept, so that only the first pass waits for a slow transform. */
const keptBytes = 256 * 2 ** 20;

/**
 * The column with images among those of a row.
 *
 * @throws LowrankError "config" that names the transform and the columns, when none has images in bytes.
 */
export function findImages(columns: readonly Column[], sample: Row, { name }: ImageTransform): ImageColumn {
  for (const [column, { dims = [] }] of columns.entries()) {
    const isImage = dims.length === 2 || channelLayout(dims) !== null;
    if (isImage && sample[column] instanceof Uint8Array) return { column, dims };
  }
  const names = columns.map((column) => (column.dims?.length ? `${column.name} [${column.dims}]` : column.name));
  throw new LowrankError(
    "config",
    `transform ${name}: expected images (a folder of them by class, or bytes [height, width] or with channels in an IDX or safetensors file), ` +
      `got ${names.slice(0, 8).join(", ")}${names.length > 8 ? ", …" : ""}; leave the transform out`,
  );
}

/** The transform of all rows' images. */
export function rowTransform(transform: ImageTransform, seed: number, { column, dims }: ImageColumn): RowTransform {
  const layout = channelLayout(dims);
  const channels = layout?.channels ?? 1;
  const [height, width] = (layout?.last === false ? dims.slice(1) : dims) as [number, number];
  const isPlanar = layout?.last === false && channels > 1;
  const kept = new Map<number, Uint8Array>();
  let bytes = 0;
  const changed = (image: Uint8Array, number: number): Uint8Array => {
    const before = kept.get(number);
    if (before !== undefined) return before;
    const data = isPlanar ? turned(image, channels) : image;
    const whole = transformImages({ data, height, width, channels }, transform, { seed, first: number });
    const result = isPlanar ? turned(whole, whole.length / channels) : whole;
    bytes += result.length;
    if (bytes <= keptBytes) kept.set(number, result);
    return result;
  };
  return (rows, numbers) =>
    rows.map((row, at) => {
      const cells: Cell[] = Array.from(row);
      cells[column] = changed(row[column] as Uint8Array, numbers[at]!);
      return cells;
    });
}

/** A matrix of bytes [rows, columns], transposed: planes become interleaved pixels, and back. */
function turned(matrix: Uint8Array, rows: number): Uint8Array {
  const columns = matrix.length / rows;
  return Uint8Array.from(matrix, (_, at) => matrix[(at % rows) * columns + Math.floor(at / rows)]!);
}
