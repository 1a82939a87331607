// What `merge` with `safe` looks at: weights that became NaN or infinite, which PEFT's safe_merge refuses too.
import { throwFaults } from "../errors.ts";
import { floatValues, type Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";

/** Throws LowrankError "model" that lists the layers whose weights are not finite among those that merging has changed. */
export function refuseNonFinite(before: Model, merged: Model): void {
  const layers = new Map(sites(merged).map(({ weight, modulePath }) => [weight, modulePath]));
  const faults: string[] = [];
  for (const [name, stored] of merged.graph.initializers) {
    if (stored === before.graph.initializers.get(name) || stored.type !== "float32") continue;
    const values = floatValues(name, stored);
    const at = values.findIndex((value) => !Number.isFinite(value));
    if (at < 0) continue;
    const layer = layers.get(name) ?? name.replace(/\.merged\.\w+$/, "");
    faults.push(
      `${layer}: expected finite weights, got ${values[at]} at ${at}; the adapter or the model may be broken`,
    );
  }
  throwFaults("model", "merge", faults);
}
