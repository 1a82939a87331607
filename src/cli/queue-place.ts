// Where a queue and its store are: from flags, from the environment, or as the folder of a sweep remembers them.
import { LowrankError } from "../errors.ts";
import { type QueuePlace, readQueuePlace } from "../sweep/folder.ts";
import { queueName } from "../sweep/queue-address.ts";

export interface PlaceFlags {
  readonly queue?: string;
  readonly store?: string;
}

/** Queue and store from flags or the environment. Throws LowrankError "config" when one is missing. */
export function queuePlace({ queue, store }: PlaceFlags): QueuePlace {
  const place = { queue: queue ?? process.env.LOWRANK_QUEUE ?? "", store: store ?? process.env.LOWRANK_STORE ?? "" };
  if (place.queue === "")
    throw new LowrankError(
      "config",
      "--queue: expected redis://host:port or postgres://host:port/database, got none; or set LOWRANK_QUEUE",
    );
  if (place.store === "") {
    throw new LowrankError(
      "config",
      "--store: expected a shared folder or s3://bucket/prefix, got none; or set LOWRANK_STORE",
    );
  }
  return place;
}

/** Where a sweep's workers are; null for one of this machine. A password is in a flag or in LOWRANK_QUEUE, never in the folder. */
export async function placeOfSweep(folder: string, { queue, store }: PlaceFlags): Promise<QueuePlace | null> {
  const known = await readQueuePlace(folder);
  if (known === null) return queue === undefined ? null : queuePlace({ queue, ...(store !== undefined && { store }) });
  const { LOWRANK_QUEUE: own = "" } = process.env;
  return { queue: queue ?? (queueName(own) === known.queue ? own : known.queue), store: store ?? known.store };
}
