// An adapter laid over an adapted model: its keys under the model's names (lora/place.ts), and what it has of the base itself
// left to the base, when the two are the same.
import type { AdaptedModel } from "../lora/adapted.ts";
import { savedOf } from "../lora/keys.ts";
import { type Placeable, type Placed, pathsOf, placeAdapter } from "../lora/place.ts";
import { moduleParameters } from "../lora/saved.ts";
import { sites } from "../onnx/sites.ts";
import type { Tensor } from "../tensor.ts";

/** The adapter under the model's keys, and what is wrong with that. */
export function placedOn<A extends Placeable>(
  adapted: AdaptedModel,
  given: A,
): Placed<A> & { readonly faults: string[] } {
  const faults: string[] = [];
  const known = new Set(adapted.parameters.map(({ key }) => key));
  // As it is in nearly all cases.
  if (adapted.config === null || [...given.tensors.keys()].every((key) => known.has(key)))
    return { adapter: given, ownKeys: new Map(), faults };
  const placed = placeAdapter(given, pathsOf(known), faults);
  const { adapter } = placed;
  const extra = new Map([...adapter.tensors].filter(([key]) => !known.has(key)));
  const same = ofBase(adapted, extra);
  if (same.size === 0) return { ...placed, faults };
  return { ...placed, adapter: { ...adapter, tensors: without(adapter.tensors, same) }, faults };
}

/** The keys of tensors that the base has as they are: PEFT saves its embeddings beside an adapter that targets them. */
function ofBase({ base }: AdaptedModel, tensors: ReadonlyMap<string, Tensor>): ReadonlySet<string> {
  const saved = savedOf(tensors);
  if (saved.length === 0) return new Set();
  const parameters = moduleParameters(base.graph, sites(base));
  const isSame = ({ path, name, value }: (typeof saved)[number]): boolean => {
    const own = parameters.get(`${path}.${name}`);
    if (own?.dims.join() !== value.dims.join()) return false;
    const { data } = own.values();
    return value.data.every((one, index) => one === data[index]);
  };
  return new Set(saved.filter(isSame).map(({ key }) => key));
}

function without(tensors: ReadonlyMap<string, Tensor>, keys: ReadonlySet<string>): ReadonlyMap<string, Tensor> {
  return new Map([...tensors].filter(([key]) => !keys.has(key)));
}
