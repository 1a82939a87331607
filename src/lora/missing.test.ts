// Layers that an adapter names and has nothing for, told by merging and by sessions with all else that does not fit.
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { LowrankError } from "../errors.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { type Tensor, zeros } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import { attachLora } from "./attach.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "./config.ts";
import { initAdapter } from "./init.ts";
import { adapterKeys } from "./keys.ts";
import { drawn, linear } from "./testing/models.ts";

/** x [n, 4] -> `count` blocks of a and b -> head; every block is called `<scope>layers.<i>`. */
function blocks(count: number, scope = ""): Model {
  const g = graphBuilder({ opset: 18 });
  let h = g.input("x", "float32", ["n", 4]);
  for (let index = 0; index < count; index++)
    for (const name of ["a", "b"]) h = linear(g, h, `${scope}layers.${index}.${name}`, [4, 4], "Gemm out,in");
  g.output(linear(g, h, `${scope}head`, [4, 3], "Gemm out,in"), "float32");
  return createModel(g.build(), { opset: 18 });
}

/** An adapter for these modules, whatever its configuration says. */
function adapterFor(paths: readonly string[], config: LoraConfig): Adapter {
  const tensors = paths.flatMap((path): [string, Tensor][] => {
    const { a, b } = adapterKeys(path);
    return [
      [a, drawn(a, 2, 4)],
      [b, drawn(b, 4, 2)],
    ];
  });
  return { config: resolveConfig({ r: 2, ...config }), tensors: new Map(tensors) };
}

async function faultsOf(model: Model, adapter: Adapter): Promise<readonly string[]> {
  const caught = async (run: () => unknown): Promise<readonly string[]> => {
    try {
      await run();
      return [];
    } catch (error) {
      // A single fault is told behind what was done.
      const place = /^(?:merge|adapter: it does not fit the model): /;
      if (error instanceof LowrankError) return error.faults.map((fault) => fault.replace(place, ""));
      throw error;
    }
  };
  const adapted = attachLora(model, { r: 2, targetModules: ["a", "b"] });
  const session = await createSession(adapted, { threads: 1 });
  const [merging, loading] = [
    await caught(() => merge(model, adapter)),
    await caught(() => session.load("one", adapter)),
  ];
  await session.dispose();
  expect(loading.map((fault) => fault.split(":")[0]).sort()).toEqual(
    merging.map((fault) => fault.split(":")[0]).sort(),
  );
  return merging;
}

const layers = [0, 1, 2, 3].map((index) => `layers.${index}.a`);

describe("a layer without tensors among others of its name", () => {
  it("is told, however the targets are written", async () => {
    for (const targetModules of [["a"], "layers\\.\\d+\\.a", layers, "all-linear"]) {
      const adapter = adapterFor(layers.toSpliced(2, 1), { targetModules });
      expect(await faultsOf(blocks(4), adapter)).toEqual([
        "layers.2.a: targetModules names it, and the adapter has no tensors for it; name it in excludeModules if the base is to stay as it is there",
      ]);
    }
  });

  it("is told with everything else that does not fit", async () => {
    const adapter = adapterFor([...layers.slice(1), "layers.7.a"], { targetModules: ["a"] });
    const tensors = new Map(adapter.tensors).set(adapterKeys("layers.3.a").a, zeros([2, 9]));
    const faults = await faultsOf(blocks(4), { ...adapter, tensors });
    expect(faults.map((fault) => fault.split(":")[0]).sort()).toEqual([
      "base_model.model.layers.7.a.lora_A.weight",
      "base_model.model.layers.7.a.lora_B.weight",
      "layers.0.a",
      "layers.3.a",
    ]);
  });

  it("is nothing to tell where the configuration leaves it out", async () => {
    const paths = layers.slice(1);
    const left: LoraConfig[] = [
      { targetModules: ["a"], layersToTransform: [1, 2, 3] },
      { targetModules: ["a"], layersToTransform: [1, 2, 3], layersPattern: "layers" },
      { targetModules: ["a"], excludeModules: ["layers.0.a"] },
      { targetModules: ["a"], excludeModules: ".*0\\.a" },
      { targetModules: "layers\\.[1-3]\\.a" },
      { targetModules: paths },
      { targetModules: ["a"], modulesToSave: ["layers.0.a"] },
      { targetModules: "(?P<any>.*)" }, // Python's, which cannot be read here
    ];
    for (const config of left) expect(await faultsOf(blocks(4), adapterFor(paths, config))).toEqual([]);
  });

  it("is found under the adapter's own names, with a scope more or less in front", async () => {
    const own = [1, 2, 3].map((index) => `model.layers.${index}.a`);
    const kept = { targetModules: ["a"], excludeModules: ["model.layers.0.a"] };
    expect(await faultsOf(blocks(4), adapterFor(own, kept))).toEqual([]);
    expect(await faultsOf(blocks(4), adapterFor(own, { targetModules: "model\\..*a" }))).toHaveLength(1);
    const [model, paths] = [blocks(4, "wrapped."), layers.slice(1)];
    expect(await faultsOf(model, adapterFor(paths, { targetModules: "layers.*a" }))).toHaveLength(1);
    expect(await faultsOf(model, adapterFor(paths, { targetModules: "layers.[1-3].a" }))).toEqual([]);
  });

  it("is no layer of another name: an adapter may have fewer than a session", async () => {
    expect(await faultsOf(blocks(2), adapterFor(["layers.0.a", "layers.1.a"], {}))).toEqual([]);
    const model = blocks(2);
    expect(await faultsOf(model, initAdapter(attachLora(model, { r: 2, targetModules: ["b"] })).adapter)).toEqual([]);
  });
});

describe("ranks and alphas", () => {
  it("stay each module's own where the model has other names", async () => {
    const paths = ["model.layers.0.a", "model.layers.1.a"];
    const config = { targetModules: ["a"], loraAlpha: 2, alphaPattern: { "model.layers.1.a": 8 } };
    const merged = merge(blocks(2), adapterFor(paths, config));
    const own = adapterFor(paths, config);
    const renamed = new Map([...own.tensors].map(([key, value]) => [key.replace("model.layers", "layers"), value]));
    const expected = merge(blocks(2), {
      config: resolveConfig({ r: 2, loraAlpha: 2, alphaPattern: { "layers.1.a": 8 }, targetModules: ["a"] }),
      tensors: renamed,
    });
    expect([...merged.graph.initializers]).toEqual([...expected.graph.initializers]);
  });
});
