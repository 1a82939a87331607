// Small tables to train on: points around centres, one centre a class, drawn from a seed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "lowrank";

export interface Clusters {
  readonly rows: number;
  readonly features: number;
  readonly classes: number;
  /** Of the points; the centres are those of seed 0. */
  readonly seed: number;
  /** Class c is called (c + turn) % classes: another task on the same points. Default 0. */
  readonly turn?: number;
}

/** Rows x0, x1, …, label; the classes take turns. */
export function clusterRows({ rows, features, classes, seed, turn = 0 }: Clusters): number[][] {
  const centre = createRandom(0, "centres");
  const centres = Array.from({ length: classes }, () => Array.from({ length: features }, () => 2 * centre.normal()));
  const random = createRandom(seed, "points");
  return Array.from({ length: rows }, (_, row) => {
    const own = row % classes;
    const point = centres[own]!.map((value) => Number((value + random.normal()).toFixed(4)));
    return [...point, (own + turn) % classes];
  });
}

/** Writes them as a CSV file into `folder`; returns its name. */
export function writeClusters(folder: string, name: string, clusters: Clusters): string {
  const header = [...Array.from({ length: clusters.features }, (_, column) => `x${column}`), "label"];
  const lines = [header, ...clusterRows(clusters)].map((cells) => cells.join(","));
  writeFileSync(join(folder, name), `${lines.join("\n")}\n`);
  return name;
}
