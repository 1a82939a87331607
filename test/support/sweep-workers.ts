// Workers of a queue, as processes that a test may kill.
import { afterAll } from "vitest";
import { type Running, startLowrank } from "./command.ts";

export interface Workers {
  /** All that were started, dead ones too. */
  readonly workers: Running[];
  /** `place` is `--queue … --store …`. */
  startWorker(place: string, env?: Record<string, string>): Running;
  /** How often each training came to its end, over all workers. */
  trained(): Map<string, number>;
}

/** Workers in a folder; they are killed when the tests of the calling file have ended. */
export function workersIn(work: string): Workers {
  const workers: Running[] = [];
  afterAll(() => {
    for (const { process } of workers) process.kill("SIGKILL");
  });
  return {
    workers,
    startWorker(place, env = {}) {
      const own = `--concurrency 1 --cache cache-${workers.length} --stalled-after 2 --publish-every 0`;
      const worker = startLowrank(`worker ${place} ${own}`.split(" "), { cwd: work, env });
      workers.push(worker);
      return worker;
    },
    trained() {
      const counts = new Map<string, number>();
      for (const { soFar } of workers) {
        for (const [, id] of soFar.stdout.matchAll(/^(\S+): trained/gm)) counts.set(id!, (counts.get(id!) ?? 0) + 1);
      }
      return counts;
    },
  };
}
