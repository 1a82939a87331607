// Small gray PNG files in folders by class: stripes that lie, and stripes that stand, with noise.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "lowrank";
import sharp from "sharp";

const size = 8;

/** Writes 8 x 8 pictures into `folder`/horizontal and `folder`/vertical. */
export async function writePictures(folder: string, { perClass }: { readonly perClass: number }): Promise<void> {
  const random = createRandom(5, "pictures");
  for (const name of ["horizontal", "vertical"]) {
    mkdirSync(join(folder, name), { recursive: true });
    for (let index = 0; index < perClass; index++) {
      const pixels = Uint8Array.from({ length: size * size }, (_, at) => {
        const across = name === "horizontal" ? Math.floor(at / size) : at % size;
        return (across % 4 < 2 ? 150 : 30) + Math.floor(60 * random.uniform());
      });
      const image = sharp(pixels, { raw: { width: size, height: size, channels: 1 } });
      await image.png().toFile(join(folder, name, `${index}.png`));
    }
  }
}
