// The golden runner of scripts/, with its types: scripts are plain JavaScript.

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root } from "./folders.ts";

export interface GoldenRow {
  /** The case's folder, with the export's file where there are several. */
  readonly name: string;
  readonly verdict: "pass" | "fail" | "not run";
  /** Why it failed or could not run; "" when it passed. */
  readonly reason: string;
  /** Absolute. */
  readonly loss?: number;
  /** Worst errors as a share of what is tolerated. */
  readonly outputs?: number;
  readonly gradients?: number;
}

interface GoldenScript {
  runGolden(directories: readonly string[]): Promise<GoldenRow[]>;
  readonly tolerance: { readonly absolute: number; readonly relative: number };
}

export const goldenScript: string = join(root, "scripts", "golden.js");

export const goldenCases: string = join(root, "test", "fixtures", "golden");

export async function loadGolden(): Promise<GoldenScript> {
  return (await import(pathToFileURL(goldenScript).href)) as GoldenScript;
}
