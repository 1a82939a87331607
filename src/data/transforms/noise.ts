// MNIST-C's noise, blurs and weather (Mu & Gilmer 2019, arXiv:1906.02337; after Hendrycks & Dietterich 2019,
// arXiv:1903.12261): shot noise, impulse noise, glass blur, motion blur, brightness, spatter. fog.ts has the fog.
import type { Random } from "../../random.ts";
import {
  clip,
  gaussianBlur,
  mapPixels,
  mapPlanes,
  type Picture,
  type PictureTransform,
  withPixels,
} from "./picture.ts";

/** Photon counts: Poisson(photons x) / photons. */
export function shotNoise(photons: number): PictureTransform {
  return (picture, random) => mapPixels(picture, (value) => clip(poisson(value * photons, random) / photons));
}

/** Knuth 1997 (The Art of Computer Programming 2, 3.4.1): factors until their product is under e^-mean. Means here are small. */
function poisson(mean: number, random: Random): number {
  const limit = Math.exp(-mean);
  let count = 0;
  for (let product = random.uniform(); product > limit; product *= random.uniform()) count++;
  return count;
}

/** A share of the values becomes 0 or 1 ("salt and pepper"). */
export function impulseNoise(share: number): PictureTransform {
  return (picture, random) =>
    mapPixels(picture, (value) => (random.uniform() < share ? Number(random.uniform() < 0.5) : value));
}

/**
 * Blurs, exchanges pixels with neighbours up to `reach` away, and blurs again. The published code blurs gray images along
 * their columns alone (its library takes the last axis for channels); so does this.
 */
export function glassBlur(sigma: number, reach: number, rounds: number): PictureTransform {
  return (picture, random) => {
    const blur = (plane: Float32Array): Float32Array => gaussianBlur(plane, picture, sigma, { axes: "y" });
    const blurred = mapPlanes(picture, blur);
    const { height, width, channels, pixels } = blurred;
    for (let at = 0; at < pixels.length; at++) pixels[at] = Math.floor(pixels[at]! * 255) / 255; // whole bytes
    for (let round = 0; round < rounds; round++) {
      for (let y = height - reach; y > reach; y--) {
        for (let x = width - reach; x > reach; x--) {
          if (random.integer(2) === 0) continue;
          const otherX = x + random.integer(2 * reach) - reach;
          const otherY = y + random.integer(2 * reach) - reach;
          exchange(pixels, channels, y * width + x, otherY * width + otherX);
        }
      }
    }
    return mapPixels(mapPlanes(blurred, blur), clip);
  };
}

function exchange(pixels: Float32Array, channels: number, one: number, other: number): void {
  for (let channel = 0; channel < channels; channel++) {
    const value = pixels[one * channels + channel]!;
    pixels[one * channels + channel] = pixels[other * channels + channel]!;
    pixels[other * channels + channel] = value;
  }
}

/**
 * Smears along a line at an angle drawn from -45 to 45 degrees: half a Gaussian of 2 radius + 1 taps on one side of the
 * pixel, as ImageMagick's motion blur (which the published code calls) has it; edge pixels go on.
 */
export function motionBlur(radius: number, sigma: number): PictureTransform {
  const taps = 2 * radius + 1;
  const weights = Float64Array.from({ length: taps }, (_, tap) => Math.exp(-(tap * tap) / (2 * sigma * sigma)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return (picture, random) => {
    const { height, width } = picture;
    const angle = ((random.uniform() * 90 - 45) * Math.PI) / 180;
    const steps = Array.from(weights, (weight, tap) => ({
      weight: weight / sum,
      x: Math.ceil(tap * Math.cos(angle) - 0.5),
      y: Math.ceil(tap * Math.sin(angle) - 0.5),
    }));
    return mapPlanes(picture, (plane) => {
      const result = new Float32Array(plane.length);
      for (let y = 0, at = 0; y < height; y++) {
        for (let x = 0; x < width; x++, at++) {
          let value = 0;
          for (const step of steps) {
            const row = Math.min(Math.max(y + step.y, 0), height - 1);
            const column = Math.min(Math.max(x + step.x, 0), width - 1);
            value += step.weight * plane[row * width + column]!;
          }
          result[at] = clip(value);
        }
      }
      return result;
    });
  };
}

/** Adds to the brightness (V of HSV, hue and saturation kept), which for gray is the value itself. */
export function brightness(added: number): PictureTransform {
  return (picture) => {
    const { channels, pixels } = picture;
    const result = new Float32Array(pixels.length);
    for (let at = 0; at < pixels.length; at += channels) {
      let value = 0;
      for (let channel = 0; channel < channels; channel++) value = Math.max(value, pixels[at + channel]!);
      const brighter = clip(value + added);
      for (let channel = 0; channel < channels; channel++)
        result[at + channel] = value === 0 ? brighter : clip((pixels[at + channel]! * brighter) / value);
    }
    return withPixels(picture, result);
  };
}

export interface Spatter {
  /** The liquid: normal with this mean and deviation, blurred by `blur`; drops are where it is over `threshold`. */
  readonly mean: number;
  readonly deviation: number;
  readonly blur: number;
  readonly threshold: number;
  /** Blur of the drops' shape. */
  readonly shape: number;
}

/** The gray of mud, as published. */
const mud = 63 / 255;
/** Drops thinner than this are left out. */
const leastCover = 0.8;

/** Drops of mud that cover parts of the image. */
export function spatter({ mean, deviation, blur, threshold, shape }: Spatter): PictureTransform {
  return (picture, random) => {
    const size = picture.height * picture.width;
    const liquid = Float32Array.from({ length: size }, () => mean + deviation * random.normal());
    const drops = gaussianBlur(liquid, picture, blur).map((value) => (value > threshold ? 1 : 0));
    const cover = gaussianBlur(drops, picture, shape).map((value) => (value < leastCover ? 0 : value));
    return mapPlanes(picture, (plane) => plane.map((value, at) => clip(value * (1 - cover[at]!) + mud * cover[at]!)));
  };
}

/** The colours of a negative. */
export function invert(picture: Picture): Picture {
  return mapPixels(picture, (value) => 1 - value);
}
