// What `merge` with `safe` looks at: weights that became NaN or infinite, which PEFT's safe_merge refuses too.
import { throwFaults } from "../errors.ts";
import { floatsOf } from "../onnx/half.ts";
import type { Model } from "../onnx/model.ts";
import { sites } from "../onnx/sites.ts";

const floats: ReadonlySet<string> = new Set(["float32", "float16", "bfloat16"]);

/** Throws LowrankError "model" that lists the layers whose weights are not finite among those that merging has changed. */
export function refuseNonFinite(before: Model, merged: Model): void {
  const layers = new Map(sites(merged).map(({ weight, modulePath }) => [weight, modulePath]));
  const faults: string[] = [];
  for (const [name, stored] of merged.graph.initializers) {
    if (stored === before.graph.initializers.get(name) || !floats.has(stored.type)) continue;
    const values = floatsOf(stored);
    const at = values.findIndex((value) => !Number.isFinite(value));
    if (at < 0) continue;
    const layer = layers.get(name) ?? name.replace(/\.merged\.\w+$/, "");
    faults.push(
      `${layer}: expected finite weights, got ${values[at]} at ${at}; the adapter or the model may be broken`,
    );
  }
  throwFaults("model", "merge", faults);
}
