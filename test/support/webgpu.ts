// WebGPU without a GPU: SwiftShader, the Vulkan driver in software that Chromium brings along. Node.js finds it by an
// environment variable, Chromium by a flag.
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { browserPaths } from "./browser.ts";

const driver = "vk_swiftshader_icd.json";

/**
 * What a process needs in its environment to find a Vulkan driver: the one that is named already, else SwiftShader.
 * Returns why there is none where none is found.
 */
export function softwareDriver(): Readonly<Record<string, string>> | string {
  const named = process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES;
  if (named) return { VK_DRIVER_FILES: named };
  const folders = browserPaths()
    .filter((path) => existsSync(path))
    .flatMap(foldersOf);
  const found = folders.map((folder) => join(folder, driver)).find((path) => existsSync(path));
  if (found !== undefined) return { VK_DRIVER_FILES: found };
  return `no ${driver} beside a Chromium; install chromium and libvulkan1, or name a Vulkan driver in VK_DRIVER_FILES`;
}

/** Where a browser's own files are: beside the program, or where a script that starts it says so. */
function foldersOf(path: string): string[] {
  const program = realpathSync(path);
  const head = readFileSync(program).subarray(0, 4096);
  const named =
    head.subarray(0, 2).toString() === "#!"
      ? (head.toString().match(/\/usr\/lib(?:64)?\/[\w.-]+|\/opt\/[\w./-]+/g) ?? [])
      : [];
  return [dirname(program), ...named, "/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"];
}
