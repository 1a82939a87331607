// Digits as bytes, 784 each, and as what the network reads: pixels / 255, then (x - 0.1307) / 0.3081, the mean and deviation
// of MNIST's training pixels, as PyTorch's examples round them.

export const side = 28;
export const pixelCount: number = side * side;

const table = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - 0.1307) / 0.3081);

/** The network's inputs [count, 784] for images of bytes [count * 784]. */
export function normalized(images: Uint8Array): Float32Array {
  return Float32Array.from(images, (byte) => table[byte]!);
}
