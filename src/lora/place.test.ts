import { describe, expect, it } from "vitest";
import { type Tensor, zeros } from "../tensor.ts";
import { adapterKeys } from "./keys.ts";
import { pathsOf, placeAdapter } from "./place.ts";

function adapterOf(...paths: string[]): { tensors: Map<string, Tensor> } {
  const keys = paths.flatMap((path) => Object.values(adapterKeys(path)));
  return { tensors: new Map(keys.map((key) => [key, zeros([1, 1])])) };
}

/** Where the modules of an adapter come to lie, by their own paths. */
function placesOf(own: readonly string[], model: readonly string[]): [Record<string, string>, string[]] {
  const faults: string[] = [];
  const { adapter, ownKeys } = placeAdapter(adapterOf(...own), new Set(model), faults);
  const places = [...pathsOf(adapter.tensors.keys())].map((path) => {
    const key = adapterKeys(path).a;
    return [[...pathsOf([ownKeys.get(key) ?? key])][0]!, path];
  });
  return [Object.fromEntries(places), faults];
}

describe("placeAdapter", () => {
  it("returns the adapter itself where its names are the model's", () => {
    const adapter = adapterOf("a.q", "b.q");
    expect(placeAdapter(adapter, new Set(["a.q", "b.q", "q"]), []).adapter).toBe(adapter);
  });

  it("places under one scope more or less, and keeps the order of the tensors", () => {
    expect(placesOf(["layer.0.q", "layer.1.q"], ["model.layer.0.q", "model.layer.1.q"])).toEqual([
      { "layer.0.q": "model.layer.0.q", "layer.1.q": "model.layer.1.q" },
      [],
    ]);
    expect(placesOf(["model.layer.0.q"], ["layer.0.q", "q"])).toEqual([{ "model.layer.0.q": "layer.0.q" }, []]);
  });

  it("never places by a part of a name", () => {
    expect(placesOf(["ay.q"], ["lay.q"])).toEqual([{ "ay.q": "ay.q" }, []]);
  });

  it("tells of several that fit, and of two that would meet", () => {
    expect(placesOf(["q"], ["a.q", "b.q"])).toEqual([
      { q: "q" },
      ["q: fits several modules of the model: a.q, b.q; rename its keys"],
    ]);
    expect(placesOf(["a.q", "b.q"], ["q"])[1]).toEqual(["b.q: a.q is placed at q already; remove one of them"]);
  });
});
