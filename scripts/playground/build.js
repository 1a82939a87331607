// Builds the playground's page into playground/dist: its files (assets.js), then the page's code by vite.
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { playgroundAssets } from "./assets.js";

const playground = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "playground");

/** Returns the folder to serve. */
export async function buildPlayground({ tell = () => undefined, outDir = join(playground, "dist") } = {}) {
  process.env.PLAYGROUND_ASSETS = await playgroundAssets(tell);
  await build({ configFile: join(playground, "vite.config.ts"), build: { outDir } });
  return outDir;
}
