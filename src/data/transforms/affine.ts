// Transforms that move pixels: rotation by a given angle, and MNIST-C's shear, scale, rotate and translate (Mu & Gilmer
// 2019, arXiv:1906.02337), whose directions are drawn for each image. All keep the image's centre where it is (but
// translate), sample bilinearly and fill with background.
import type { Random } from "../../random.ts";
import { type PictureTransform, warp } from "./picture.ts";

/** Turns the image counterclockwise, as it is seen. */
export function rotation(degrees: number): PictureTransform {
  const angle = (degrees * Math.PI) / 180;
  return (picture) => warp(picture, [Math.cos(angle), -Math.sin(angle), 0, Math.sin(angle), Math.cos(angle), 0]);
}

/** Shears by an angle (radians), to the left or to the right. */
export function shear(radians: number): PictureTransform {
  return (picture, random) => {
    const angle = radians * direction(random);
    return warp(picture, [1, -Math.sin(angle), 0, 0, Math.cos(angle), 0]);
  };
}

/** Rotates by an angle (radians), to the left or to the right. */
export function rotate(radians: number): PictureTransform {
  return (picture, random) => {
    const angle = radians * direction(random);
    return warp(picture, [Math.cos(angle), -Math.sin(angle), 0, Math.sin(angle), Math.cos(angle), 0]);
  };
}

/** Makes what is drawn smaller: `factor` of its size. */
export function scale(factor: number): PictureTransform {
  return (picture) => warp(picture, [1 / factor, 0, 0, 0, 1 / factor, 0]);
}

/** Moves by so many pixels along each axis, in one of four directions. */
export function translate(distance: number): PictureTransform {
  return (picture, random) => {
    const x = distance * direction(random);
    const y = distance * direction(random);
    return warp(picture, [1, 0, x, 0, 1, y]);
  };
}

function direction(random: Random): number {
  return random.integer(2) === 0 ? -1 : 1;
}
