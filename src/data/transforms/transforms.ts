// Images of another domain, by name: what `--transform name[:parameter]` understands. Rotations, inverted colours, thick and
// thin strokes, and the fifteen corruptions of MNIST-C (Mu & Gilmer 2019, arXiv:1906.02337) with the severities that its data
// set was made with. Each image draws from its own random stream, so that any part of a set comes out as in the whole.
import { LowrankError } from "../../errors.ts";
import { createRandom } from "../../random.ts";
import { rotate, rotation, scale, shear, translate } from "./affine.ts";
import { cannyEdges } from "./canny.ts";
import { fog } from "./fog.ts";
import { dottedLine, stripe, zigzag } from "./lines.ts";
import { brightness, glassBlur, impulseNoise, invert, motionBlur, shotNoise, spatter } from "./noise.ts";
import type { Picture, PictureTransform } from "./picture.ts";
import { thick, thin } from "./strokes.ts";

/** A transform that was asked for; `parseTransform` makes one. */
export interface ImageTransform {
  /** As it is written: `rotation:30`, `fog:5`, `invert`. */
  readonly name: string;
  readonly apply: PictureTransform;
}

/** Images of one size, one after the other: [count, height, width, channels]; bytes 0 to 255, or floats 0 to 1. */
export interface Images<T extends Uint8Array | Float32Array = Uint8Array | Float32Array> {
  readonly data: T;
  readonly height: number;
  readonly width: number;
  /** Default 1. */
  readonly channels?: number;
}

interface Kind {
  /** What the parameter is, for messages; null where there is none. */
  readonly parameter: {
    readonly from: number;
    readonly to: number;
    readonly whole: boolean;
    readonly usual: number;
  } | null;
  readonly make: (parameter: number) => PictureTransform;
}

const plain = (transform: PictureTransform): Kind => ({ parameter: null, make: () => transform });

/** A corruption in five severities, and the one that MNIST-C uses. */
function severities<T>(usual: number, values: readonly T[], make: (value: T) => PictureTransform): Kind {
  return { parameter: { from: 1, to: values.length, whole: true, usual }, make: (level) => make(values[level - 1]!) };
}

type Two = readonly [number, number];
type Three = readonly [number, number, number];

const drops = (mean: number, deviation: number, blur: number, threshold: number, shape: number) => ({
  mean,
  deviation,
  blur,
  threshold,
  shape,
});

/** MNIST-C's corruptions, in its order. */
const corruptions: Readonly<Record<string, Kind>> = {
  shot_noise: severities(5, [60, 25, 12, 5, 3], shotNoise),
  impulse_noise: severities(4, [0.03, 0.06, 0.09, 0.17, 0.27], impulseNoise),
  glass_blur: severities<Three>(
    1,
    [
      [0.7, 1, 2],
      [0.9, 2, 1],
      [1, 2, 3],
      [1.1, 3, 2],
      [1.5, 4, 2],
    ],
    ([sigma, reach, rounds]) => glassBlur(sigma, reach, rounds),
  ),
  motion_blur: severities<Two>(
    1,
    [
      [10, 3],
      [15, 5],
      [15, 8],
      [15, 12],
      [20, 15],
    ],
    ([radius, sigma]) => motionBlur(radius, sigma),
  ),
  shear: severities(2, [0.2, 0.4, 0.6, 0.8, 1], shear),
  scale: severities(3, [0.9, 0.8, 0.7, 0.6, 0.5], scale),
  rotate: severities(2, [0.2, 0.4, 0.6, 0.8, 1], rotate),
  brightness: severities(5, [0.1, 0.2, 0.3, 0.4, 0.5], brightness),
  translate: severities(3, [1, 2, 3, 4, 5], translate),
  stripe: plain(stripe),
  fog: severities<Two>(
    5,
    [
      [1.5, 2],
      [2, 2],
      [2.5, 1.7],
      [2.5, 1.5],
      [3, 1.4],
    ],
    ([amount, decay]) => fog(amount, decay),
  ),
  spatter: severities(
    4,
    [
      drops(0.65, 0.3, 4, 0.69, 0.6),
      drops(0.65, 0.3, 3, 0.68, 0.6),
      drops(0.65, 0.3, 2, 0.68, 0.5),
      drops(0.65, 0.3, 1, 0.65, 1.5),
      drops(0.67, 0.4, 1, 0.65, 1.5),
    ],
    spatter,
  ),
  dotted_line: plain(dottedLine),
  zigzag: plain(zigzag),
  canny_edges: plain(cannyEdges),
};

const kinds: Readonly<Record<string, Kind>> = {
  identity: plain((picture) => picture),
  rotation: { parameter: { from: -180, to: 180, whole: false, usual: 45 }, make: rotation },
  invert: plain(invert),
  thick: { parameter: { from: 0, to: 10, whole: false, usual: 1 }, make: thick },
  thin: { parameter: { from: 0, to: 10, whole: false, usual: 0.5 }, make: thin },
  ...corruptions,
};

/** The names of MNIST-C's fifteen corruptions, in its order. */
export const corruptionNames: readonly string[] = Object.keys(corruptions);

/** All names that `parseTransform` knows. */
export const transformNames: readonly string[] = Object.keys(kinds);

/**
 * Reads `name` or `name:parameter`: degrees for rotation, a radius in pixels for thick and thin, a severity from 1 to 5 for
 * MNIST-C's corruptions that have one (without it, the published severity).
 *
 * @throws LowrankError "config" for a name that is none, or a parameter out of range or not wanted.
 * @example parseTransform("rotation:30")
 */
export function parseTransform(text: string): ImageTransform {
  const [name = "", ...rest] = text.split(":");
  const kind = Object.hasOwn(kinds, name) ? kinds[name]! : null;
  if (kind === null) {
    throw new LowrankError("config", `transform: expected one of ${transformNames.join(", ")}; got ${text}`);
  }
  const { parameter } = kind;
  if (parameter === null) {
    if (rest.length === 0) return { name, apply: kind.make(0) };
    throw new LowrankError("config", `transform ${name}: expected no parameter, got ${text}; write ${name}`);
  }
  const given = rest.join(":");
  const value = rest.length === 0 ? parameter.usual : given.trim() === "" ? Number.NaN : Number(given);
  const { from, to, whole } = parameter;
  if (!(value >= from && value <= to) || (whole && !Number.isInteger(value))) {
    const expected = `${whole ? "a whole number" : "a number"} from ${from} to ${to}`;
    throw new LowrankError(
      "config",
      `transform ${name}: expected ${expected}, got ${given}; write ${name}:${parameter.usual}, for example`,
    );
  }
  return { name: `${name}:${value}`, apply: kind.make(value) };
}

/**
 * Applies a transform to every image. The same seed, transform and position give the same image, whatever else is in the set;
 * `first` is the position of the first image where only a part of a set is given.
 *
 * @param images [count, height, width, channels]; not changed.
 * @returns the same shape and type; bytes are rounded.
 * @throws LowrankError "data" when the size of the data is no multiple of an image's.
 * @example
 * const turned = transformImages({ data: train.images, height: 28, width: 28 }, parseTransform("rotation:30"), { seed: 0 });
 */
export function transformImages<T extends Uint8Array | Float32Array>(
  images: Images<T>,
  transform: ImageTransform,
  { seed = 0, first = 0 }: { readonly seed?: number; readonly first?: number } = {},
): T {
  const { data, height, width, channels = 1 } = images;
  const size = height * width * channels;
  if (![height, width, channels].every((side) => Number.isInteger(side) && side > 0) || data.length % size !== 0) {
    throw new LowrankError(
      "data",
      `images: expected a multiple of ${height} x ${width} x ${channels} values, got ${data.length}; check their size`,
    );
  }
  const result = data.slice() as T;
  const factor = data instanceof Uint8Array ? 255 : 1;
  for (let start = 0, index = first; start < data.length; start += size, index++) {
    const pixels = new Float32Array(size);
    for (let at = 0; at < size; at++) pixels[at] = data[start + at]! / factor;
    const picture: Picture = { height, width, channels, pixels };
    const changed = transform.apply(picture, createRandom(seed, `transform ${transform.name} ${index}`)).pixels;
    for (let at = 0; at < size; at++)
      result[start + at] = factor === 1 ? changed[at]! : Math.round(factor * changed[at]!);
  }
  return result;
}
