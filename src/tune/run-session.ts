// Where a run's models run: the device and the threads that were asked for, once it is known that they can be had.
import { checkDevice, type SessionOptions } from "../runtime/session.ts";
import type { RunOptions } from "./option-table.ts";

/**
 * The session options of a run. What `auto` has chosen is told, with the reason.
 *
 * @throws LowrankError "runtime" that says what is missing when the device cannot be had.
 */
export async function runSession(
  { device, threads }: Pick<RunOptions, "device" | "threads">,
  tell: (text: string) => void,
): Promise<SessionOptions> {
  const chosen = await checkDevice({ device, ...(threads !== null && { threads }) });
  if (device === "auto") tell(`Device auto: ${chosen.device} (${chosen.reason}).`);
  return { device: chosen.device, ...(threads !== null && { threads }) };
}
