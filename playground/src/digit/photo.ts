// A picture of a digit from a file, opened by the browser and made small; scan.ts finds the digit on it.
import { digitOfPixels } from "./scan.ts";

/** Larger pictures are made smaller before their pixels are looked at. */
const largestSide = 512;

/**
 * The digit in an image file, as bytes [784].
 *
 * @throws Error that says what to do, for a file that is no picture or has nothing on it.
 */
export async function digitOfFile(file: Blob): Promise<Uint8Array> {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null) {
    throw new Error("This file is no picture that the browser can open: choose a PNG, JPEG, WebP or GIF file.");
  }
  const shrink = Math.min(1, largestSide / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [
    Math.max(1, Math.round(bitmap.width * shrink)),
    Math.max(1, Math.round(bitmap.height * shrink)),
  ];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return digitOfPixels(context.getImageData(0, 0, width, height).data, width);
}
