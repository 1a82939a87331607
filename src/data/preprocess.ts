// What happens to MNIST's bytes before the network sees them: pixels / 255, then (x - 0.1307) / 0.3081 (the training
// set's mean and standard deviation), as torchvision's ToTensor and Normalize do it; and picking images by label.
import { imagePixels } from "./idx.ts";

/** Mean and standard deviation of MNIST's training pixels, as the study and PyTorch's own examples round them. */
const mean = 0.1307;
const deviation = 0.3081;

/**
 * The network's input for each of the 256 byte values, bit for bit what PyTorch computes in float32.
 *
 * Each step is rounded to float32 on its own, the two constants too, as torch.Tensor.div, sub and div would.
 */
export const normalizedBytes: Readonly<Float32Array> = Float32Array.from({ length: 256 }, (_, byte) => {
  const { fround } = Math;
  const pixel = fround(byte / 255);
  return fround(fround(pixel - fround(mean)) / fround(deviation));
});

/**
 * Writes the normalized pixels of images `indices[start]` … `indices[start + count - 1]` to the front of `into`.
 *
 * Allocates nothing: it fills the same batch buffer for each step.
 *
 * @example
 * gatherImages(train.images, order, step * 10, 10, batch); // batch: Float32Array of 10 * 784
 */
export function gatherImages(
  images: Uint8Array, // [N * 784]
  indices: Int32Array | readonly number[],
  start: number,
  count: number,
  into: Float32Array, // [count, 784], or longer
): void {
  if (start < 0 || start + count > indices.length || count * imagePixels > into.length) {
    throw new Error(
      `internal: images ${start} to ${start + count} of ${indices.length} into ${into.length / imagePixels} rows`,
    );
  }
  const table = normalizedBytes;
  for (let row = 0; row < count; row++) {
    let from = indices[start + row]! * imagePixels;
    if (!(from >= 0 && from + imagePixels <= images.length)) {
      throw new Error(`internal: image ${indices[start + row]} of ${images.length / imagePixels}`);
    }
    // Four pixels a turn (784 is 4 * 196) take half the time of one.
    const end = (row + 1) * imagePixels;
    for (let to = row * imagePixels; to < end; to += 4, from += 4) {
      into[to] = table[images[from]!]!;
      into[to + 1] = table[images[from + 1]!]!;
      into[to + 2] = table[images[from + 2]!]!;
      into[to + 3] = table[images[from + 3]!]!;
    }
  }
}

/** The indices of all images with this label, in their order. */
export function selectByLabel(labels: Uint8Array, label: number): Int32Array {
  const indices = new Int32Array(labels.length);
  let found = 0;
  for (let i = 0; i < labels.length; i++) if (labels[i] === label) indices[found++] = i;
  return indices.slice(0, found);
}
