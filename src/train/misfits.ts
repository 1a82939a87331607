// How an adapter is refused. Apart from step.ts, so that a page that only runs adapters loads no gradient rules.
import { throwFaults } from "../errors.ts";

/** Throws LowrankError "adapter" when there are faults. */
export function throwMisfits(faults: readonly string[]): void {
  throwFaults("adapter", "adapter: it does not fit the model", faults);
}
