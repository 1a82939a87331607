// Image files as bytes in a model's layout, by sharp: decoded, turned as their EXIF data says, resized to the model's height
// and width (cover, centred), gray or colour as it has channels. What was decoded is kept up to a bound, so that only the
// first pass waits for it.
import { LowrankError } from "../errors.ts";
import { channelLayout, type InputShape } from "./fields.ts";
import { loadPackage } from "./package.ts";
import type { Cell, Row } from "./table.ts";

/** Decoded images up to so many bytes are kept. */
const keptBytes = 256 * 2 ** 20;

/** An image of more pixels is taken for an attack on memory. */
const maxPixels = 2 ** 28;

interface Size {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** [H, W, C], else [C, H, W]. */
  readonly channelsLast: boolean;
}

/**
 * Decodes the images in a column of rows: paths become bytes in the layout of `input`: [C, H, W], [H, W, C], [H, W], or
 * flat and square.
 *
 * @throws LowrankError "data" when the input's shape is none of an image, or, by the function, when a file is none; "config"
 * when sharp is missing.
 */
export async function imageDecoder(
  input: InputShape,
  column: number,
): Promise<(rows: readonly Row[]) => Promise<readonly Row[]>> {
  const size = imageSize(input);
  const { default: sharp } = await loadPackage("sharp", "image files", () => import("sharp"));
  const kept = new Map<string, Uint8Array>();
  let bytes = 0;
  const decode = async (path: string): Promise<Uint8Array> => {
    const before = kept.get(path);
    if (before !== undefined) return before;
    const { channels, height, width, channelsLast } = size;
    const image = sharp(path, { failOn: "error", limitInputPixels: maxPixels }).rotate().resize(width, height);
    const coloured = channels === 1 ? image.grayscale() : image.toColourspace("srgb");
    const flat = channels === 4 ? coloured.ensureAlpha() : coloured.flatten({ background: "white" });
    const { data, info } = await flat
      .raw()
      .toBuffer({ resolveWithObject: true })
      .catch((error: unknown): never => {
        throw new LowrankError("data", `is no image that can be read: ${(error as Error).message}`, { cause: error });
      });
    const pixels = toLayout(data, info.channels, channels, channelsLast);
    bytes += pixels.length;
    if (bytes <= keptBytes) kept.set(path, pixels);
    return pixels;
  };
  return (rows) =>
    Promise.all(
      rows.map(async (row) => {
        const cells: Cell[] = Array.from(row);
        cells[column] = await decode(row[column] as string);
        return cells;
      }),
    );
}

/** The shape that decoded images have: [C, H, W], [H, W, C] or, with one channel, [H, W]. Throws as `imageDecoder` does. */
export function imageDims(input: InputShape): readonly number[] {
  const { channels, height, width, channelsLast } = imageSize(input);
  if (channels === 1) return [height, width];
  return channelsLast ? [height, width, channels] : [channels, height, width];
}

function imageSize({ name, dims }: InputShape): Size {
  const own = dims.slice(1);
  const fixed = own.filter((dim): dim is number => typeof dim === "number" && dim > 0);
  if (fixed.length === own.length) {
    const layout = channelLayout(fixed);
    if (layout?.last === false)
      return { channels: fixed[0]!, height: fixed[1]!, width: fixed[2]!, channelsLast: false };
    if (layout) return { channels: fixed[2]!, height: fixed[0]!, width: fixed[1]!, channelsLast: true };
    if (fixed.length === 2) return { channels: 1, height: fixed[0]!, width: fixed[1]!, channelsLast: false };
    const side = Math.sqrt(fixed[0]!);
    if (fixed.length === 1 && Number.isInteger(side))
      return { channels: 1, height: side, width: side, channelsLast: false };
  }
  throw new LowrankError(
    "data",
    `${name}: expected [C, H, W], [H, W, C], [H, W] or a square number of pixels for images, got [${own}]; give the input fixed sizes`,
  );
}

/** Interleaved pixels as the model has them; channels that the file has beyond are left out. */
function toLayout(pixels: Uint8Array, from: number, to: number, channelsLast: boolean): Uint8Array {
  const count = pixels.length / from;
  const out = new Uint8Array(count * to);
  for (let pixel = 0; pixel < count; pixel++) {
    for (let channel = 0; channel < to; channel++) {
      const value = pixels[pixel * from + Math.min(channel, from - 1)]!;
      out[channelsLast ? pixel * to + channel : channel * count + pixel] = value;
    }
  }
  return out;
}
