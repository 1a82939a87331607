import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { attachLora } from "../lora/attach.ts";
import { drawn, type LayerForm, layerForms, snapshot, twoLayers } from "../lora/testing/models.ts";
import { createModel, float, graphBuilder } from "../onnx/builder.ts";
import { producers } from "../onnx/graph.ts";
import { intsAttribute, type Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { dequantizedWeight, storedWeight } from "../onnx/sites/dense.ts";
import { type Site, sites } from "../onnx/sites.ts";
import { writeModel } from "../onnx/write.ts";
import { openSession } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { gradcheck } from "../train/gradcheck.ts";
import { meanSquaredError } from "../train/losses.ts";
import { train } from "../train/train.ts";
import { compress, compressWith } from "./compress.ts";
import { recover } from "./recover.ts";

/** x [batch, 24] -> fc1 (24 -> 40) -> Tanh -> fc2 (40 -> 16) -> y. */
function network(form: LayerForm = "Gemm out,in", opset = 17): Model {
  const g = graphBuilder({ name: "network", opset });
  const layer = (x: string, path: string, into: number, out: number): string => {
    const isOutIn = form === "Gemm out,in";
    const weight = g.initializer(`${path}.weight`, drawn(path, ...(isOutIn ? [out, into] : [into, out])));
    const bias = g.initializer(`${path}.bias`, drawn(`${path} bias`, out));
    const name = { name: `/${path}/${form.split(" ")[0]}` };
    if (form !== "MatMul") return g.op("Gemm", [x, weight, bias], isOutIn ? { transB: 1 } : {}, name);
    return g.op("Add", [g.op("MatMul", [x, weight], {}, name), bias]);
  };
  const x = g.input("x", "float32", ["batch", 24]);
  const y = layer(g.op("Tanh", [layer(x, "fc1", 24, 40)]), "fc2", 40, 16);
  g.output(g.op("Identity", [y], {}, { output: "y" }), "float32", ["batch", 16]);
  return createModel(g.build(), { opset });
}

async function outputOf(model: Model, x: Tensor): Promise<number[]> {
  const session = await openSession(readModel(writeModel(model)), { threads: 1 });
  try {
    return [...(await session.run(new Map([["x", x]]))).get("y")!.data].map(Number);
  } finally {
    await session.dispose();
  }
}

function distance(a: readonly number[], b: readonly number[]): number {
  return Math.max(...a.map((value, index) => Math.abs(value - b[index]!)));
}

/** W [out, in] of a site, whatever its form. */
function weightOf({ graph }: Model, site: Site): Float32Array {
  const made = producers(graph);
  let stored = storedWeight(graph, made, site.weight)?.data;
  if (site.quantized !== undefined) stored = dequantizedWeight(graph, site).data;
  const node = made.get(site.weight);
  if (node?.op === "DequantizeLinear") {
    const codes = graph.initializers.get(node.inputs[0]!)!;
    const scales = new Float32Array(graph.initializers.get(node.inputs[1]!)!.bytes.slice().buffer);
    const axis = Number((node.attributes.get("axis") as { value: bigint }).value);
    const columns = codes.dims[1]!;
    stored = Float32Array.from(
      new Int8Array(codes.bytes.slice().buffer),
      (code, index) => code * scales[axis === 0 ? Math.floor(index / columns) : index % columns]!,
    );
  }
  if (site.layout === "out,in") return stored!;
  const { inFeatures, outFeatures } = site;
  return Float32Array.from(
    stored!,
    (_, index) => stored![(index % inFeatures) * outFeatures + Math.floor(index / inFeatures)]!,
  );
}

/** The same model with the weights that a compressed one has: one product for each layer, in floats. */
function dense(base: Model, small: Model): Model {
  const now = new Map(sites(small).map((site) => [site.modulePath, site]));
  const initializers = new Map(base.graph.initializers);
  for (const site of sites(base)) {
    const { modulePath, inFeatures, outFeatures, layout, weight } = site;
    const [whole, first, second] = ["", ".0", ".1"].map((end) => now.get(modulePath + end));
    let values = whole && weightOf(small, whole);
    if (values === undefined) {
      const [a, b] = [weightOf(small, first!), weightOf(small, second!)];
      const r = first!.outFeatures;
      values = Float32Array.from({ length: inFeatures * outFeatures }, (_, index) => {
        const [out, into] = [Math.floor(index / inFeatures), index % inFeatures];
        let sum = 0;
        for (let k = 0; k < r; k++) sum += b[out * r + k]! * a[k * inFeatures + into]!;
        return sum;
      });
    }
    const laid =
      layout === "out,in"
        ? values
        : values.map((_, index) => values[(index % outFeatures) * inFeatures + Math.floor(index / outFeatures)]!);
    const dims = layout === "out,in" ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
    initializers.set(weight, { type: "float32", dims, bytes: new Uint8Array(laid.slice().buffer) });
  }
  return { ...base, graph: { ...base.graph, initializers } };
}

const x = drawn("x", 6, 24);
/** float32 sums of up to 40 terms of size 1. */
const rounding = 5e-5;

describe.each(layerForms)("%s", (form) => {
  const base = network(form);

  it("computes what W_r would, with layers that are found again", async () => {
    const before = snapshot(base);
    const { model, layers, parameters, bytes } = compress(base, { rank: 5 });
    expect(
      sites(model).map(({ modulePath, inFeatures, outFeatures }) => [modulePath, inFeatures, outFeatures]),
    ).toEqual([
      ["fc1.0", 24, 5],
      ["fc1.1", 5, 40],
      ["fc2.0", 40, 5],
      ["fc2.1", 5, 16],
    ]);
    expect(layers.map(({ rank, parameters, operations }) => [rank, parameters, operations])).toEqual([
      [5, { before: 960, after: 320 }, { before: 1920, after: 640 }],
      [5, { before: 640, after: 280 }, { before: 1280, after: 560 }],
    ]);
    expect(parameters).toEqual({ before: 1656, after: 656 });
    expect(bytes).toEqual({ before: 6624, after: 2624 });
    expect(distance(await outputOf(model, x), await outputOf(dense(base, model), x))).toBeLessThan(rounding);
    expect(snapshot(base)).toEqual(before);
  });

  it.each(["int8", "int4"] as const)("stores %s that the runtime multiplies with exactly", async (quantize) => {
    const { model, layers } = compress(base, { quantize });
    expect(sites(model).map(({ modulePath }) => modulePath)).toEqual(["fc1", "fc2"]);
    expect(layers.map(({ bytes }) => bytes.after)).toEqual(
      quantize === "int8" ? [960 + 160, 640 + 64] : [40 * 20, 16 * 40],
    );
    // Uniform values: half a step is 1 / 254 of the largest, or 1 / 16; the error's mean is 1 / sqrt(3) of that.
    for (const { relativeError } of layers) {
      expect(relativeError).toBeGreaterThan(quantize === "int8" ? 0.002 : 0.03);
      expect(relativeError).toBeLessThan(quantize === "int8" ? 0.006 : 0.09);
    }
    expect(distance(await outputOf(model, x), await outputOf(dense(base, model), x))).toBeLessThan(rounding);
  });

  it.each(["int8", "int4"] as const)("factorizes and stores %s at once, and trains on that", async (quantize) => {
    const { model } = compress(base, { rank: 5, quantize });
    expect(distance(await outputOf(model, x), await outputOf(dense(base, model), x))).toBeLessThan(rounding);
    const adapted = attachLora(model, { r: 2 });
    expect(adapted.sites.map(({ site }) => site.modulePath)).toEqual(["fc1.0", "fc1.1", "fc2.0", "fc2.1"]);
    expect((await gradcheck(adapted, { x })).passed).toBe(true);
    const batch = { inputs: { x }, labels: drawn("labels", 6, 16) };
    const { history } = await train(adapted, Array(20).fill(batch), { loss: meanSquaredError(), learningRate: 0.02 });
    expect(history.losses.at(-1)).toBeLessThan(0.8 * history.losses[0]!);
  });
});

describe("targets", () => {
  const base = network();
  const whole = (model: Model, path: string): Float32Array =>
    weightOf(model, sites(model).find(({ modulePath }) => modulePath === path)!);
  const energyOf = (values: Float32Array): number => values.reduce((sum, value) => sum + value ** 2, 0);

  it("keep the share of the energy that is asked for, at the least rank", () => {
    fc.assert(
      fc.property(fc.double({ min: 0.3, max: 0.8, noNaN: true }), (energy) => {
        const report = compress(base, { energy, targetModules: ["fc1"] }).layers[0]!;
        expect(1 - report.relativeError ** 2).toBeGreaterThanOrEqual(energy - 1e-6);
        if (report.rank === null || report.rank === 1) return;
        const less = compress(base, { rank: report.rank - 1, targetModules: ["fc1"] }).layers[0]!;
        expect(1 - less.relativeError ** 2).toBeLessThan(energy);
      }),
      { numRuns: 10 },
    );
  });

  it("have the tail of the singular values as their error (Eckart and Young)", () => {
    // Of W W^T, whose trace is the energy: the errors of all ranks are told by one another.
    const total = energyOf(whole(base, "fc2"));
    const kept = Array.from({ length: 11 }, (_, index) => {
      const { model, layers } = compress(base, { rank: index + 1, targetModules: ["fc2"] });
      const [a, b] = [whole(model, "fc2.0"), whole(model, "fc2.1")];
      expect(energyOf(b)).toBeCloseTo(index + 1, 4); // orthonormal columns
      // |U U^T W|^2 is the sum of the squared singular values.
      expect(layers[0]!.relativeError ** 2).toBeCloseTo(1 - energyOf(a) / total, 5);
      return energyOf(a);
    });
    const squares = kept.map((value, index) => value - (kept[index - 1] ?? 0));
    for (let i = 1; i < squares.length; i++) expect(squares[i]!).toBeLessThanOrEqual(squares[i - 1]! + 1e-4);
  });

  it("are exact where the weight has that rank", async () => {
    const low = compress(base, { rank: 4 }).model;
    const again = compress(dense(base, low), { error: 1e-5 });
    expect(again.layers.map(({ rank }) => rank)).toEqual([4, 4]);
    expect(Math.max(...again.layers.map(({ relativeError }) => relativeError))).toBeLessThan(1e-6);
    expect(distance(await outputOf(again.model, x), await outputOf(low, x))).toBeLessThan(rounding);
  });

  it("meet the size of the whole model, and use it up", () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.25, max: 1, noNaN: true }),
        fc.constantFrom("int8" as const, "int4" as const, undefined),
        fc.constantFrom("bytes" as const, "parameters" as const),
        (size, quantize, measure) => {
          const options = { size, measure, ...(quantize !== undefined && { quantize }) };
          const { layers, [measure]: sum } = compress(base, options);
          expect(sum.after).toBeLessThanOrEqual(size * sum.before);
          // One rank more would not fit, in whichever layer; it costs at most 64 floats.
          const mayGrow = layers.every(({ rank }, index) => rank !== null && rank < [14, 11][index]!);
          if (mayGrow) expect(sum.after + 64 * (measure === "bytes" ? 4 : 1)).toBeGreaterThan(size * sum.before);
        },
      ),
      { numRuns: 25 },
    );
  });

  it("leave alone what would not shrink, and say so", () => {
    const { model, layers, bytes } = compress(base, { rank: 15 });
    // 24 * 40 / 64 = 15 is no smaller; 40 * 16 / 56 = 11.4.
    expect(layers.map(({ rank, reason }) => [rank, reason])).toEqual([
      [null, "rank 15 would not shrink it: 24 x 40 is smaller from rank 14 down"],
      [null, "rank 15 would not shrink it: 40 x 16 is smaller from rank 11 down"],
    ]);
    expect(model).toBe(base);
    expect(bytes.after).toBe(bytes.before);
    expect(compress(base, { rank: 14 }).layers.map(({ rank }) => rank)).toEqual([14, null]);
  });

  it("leave out shared weights, and refuse options that say nothing or too much", () => {
    const { initializers, nodes } = base.graph;
    const g = graphBuilder({ name: "tied", opset: 17 });
    const w = g.initializer("emb.weight", drawn("emb", 30, 24));
    const rows = g.op("Gather", [w, g.input("ids", "int64", ["batch"])]);
    g.output(g.op("Gemm", [rows, w], { transB: 1 }, { name: "/head/Gemm" }), "float32", ["batch", 30]);
    const tied = createModel(g.build(), { opset: 17 });
    expect(compress(tied, { rank: 2 }).layers[0]!.reason).toMatch(/^its weight is that of emb(\.\w+)* too/);
    expect(initializers.size + nodes.length).toBe(8);
    expect(() => compress(base, {})).toThrow("expected rank, energy, error, size or quantize, got none");
    expect(() => compress(base, { rank: 1.5, energy: 2 })).toThrow(
      expect.objectContaining({
        code: "config",
        faults: [
          "expected one of rank, energy, error, size, got rank and energy; choose one",
          "rank: expected a whole number of 1 or more, got 1.5",
          "energy: expected a share above 0, up to 1, got 2",
        ],
      }),
    );
    expect(() => compress(base, { size: 0.01 })).toThrow(
      "compress: size: expected at least 0.1063, which rank 1 in every chosen layer and all else take, got 0.01",
    );
  });
});

it("keeps a Gemm's alpha and beta, and lifts old operator sets for int8", async () => {
  const g = graphBuilder({ name: "scaled", opset: 11 });
  const [w, b] = [g.initializer("fc.weight", drawn("w", 24, 40)), g.initializer("fc.bias", drawn("b", 40))];
  const scaled = { alpha: float(0.5), beta: float(3) };
  g.output(g.op("Gemm", [g.input("x", "float32", ["n", 24]), w, b], scaled, { output: "y" }), "float32", ["n", 40]);
  const base = createModel(g.build(), { opset: 11 });
  for (const options of [{ rank: 4 }, { quantize: "int8" }] as const) {
    const { model } = compress(base, options);
    expect(distance(await outputOf(model, x), await outputOf(dense(base, model), x))).toBeLessThan(rounding);
  }
  expect(compress(base, { quantize: "int4" }).layers[0]!.reason).toBe(
    "its Gemm scales its bias, which MatMulNBits cannot",
  );
  const node = compress(base, { quantize: "int8" }).model.graph.nodes[0]!;
  expect([node.op, intsAttribute(node, "none")]).toEqual(["DequantizeLinear", undefined]);
});

it("gives what each layer, and each of the two ways, makes of the model by itself", async () => {
  const base = network();
  const { variant, model } = compress(base, { rank: 5, quantize: "int8" });
  const forms = (one: Model): string[] =>
    sites(one).map(({ modulePath, weight }) => `${modulePath} ${producers(one.graph).has(weight) ? "int8" : "floats"}`);
  expect(forms(variant({}))).toEqual(forms(model));
  expect(forms(variant({ only: ["fc2"] }))).toEqual(["fc1 floats", "fc2.0 int8", "fc2.1 int8"]);
  expect(forms(variant({ quantized: false }))).toEqual([
    "fc1.0 floats",
    "fc1.1 floats",
    "fc2.0 floats",
    "fc2.1 floats",
  ]);
  expect(variant({ only: [] })).toBe(base);
  const factorized = compress(base, { rank: 5 }).model;
  expect(await outputOf(variant({ quantized: false }), x)).toEqual(await outputOf(factorized, x));
});

describe("with data", () => {
  const base = network();
  /** Inputs that vary in few directions, each more than the next. */
  const inputs = (name: string): Tensor<"float32"> => {
    const [scores, directions] = [drawn(name, 64, 24).data, drawn("directions", 24, 24).data];
    const data = Float32Array.from({ length: 64 * 24 }, (_, index) => {
      let sum = 0;
      for (let k = 0; k < 24; k++)
        sum += scores[Math.floor(index / 24) * 24 + k]! * 0.7 ** k * directions[k * 24 + (index % 24)]!;
      return sum;
    });
    return tensor("float32", [64, 24], data);
  };
  const batches = [{ inputs: { x: inputs("a") } }, { inputs: { x: inputs("b") } }];
  const errors = (model: Model, other: Model, x: Tensor): Promise<number> =>
    Promise.all([outputOf(model, x), outputOf(other, x)]).then(([a, b]) => Math.hypot(...a.map((v, i) => v - b[i]!)));

  it("is nearer to the original on it than without, in every layer, and on other data like it", async () => {
    for (const rank of [2, 5, 9]) {
      const aware = await compressWith(base, batches, { rank });
      const plain = compress(base, { rank });
      const measured = await compressWith(base, batches, { rank, targetModules: ["fc1"] });
      for (const [index, layer] of aware.layers.entries()) {
        expect(layer.relativeError).toBeGreaterThanOrEqual(plain.layers[index]!.relativeError - 1e-6);
      }
      // The first layer's results, on the data itself: what the report says is what the model does.
      const cut = (model: Model): Model => {
        const value = model.graph.nodes.find(({ op }) => op === "Tanh")!.inputs[0]!;
        const nodes = model.graph.nodes.flatMap((node) => {
          if (node.outputs[0] === "y") return [{ ...node, inputs: [value] }];
          return [node];
        });
        const outputs = [{ name: "y", type: "float32" as const, shape: undefined, doc: "" }];
        return { ...model, graph: { ...model.graph, nodes, outputs } };
      };
      const own = await errors(cut(base), cut(measured.model), batches[0]!.inputs.x);
      const other = await errors(cut(base), cut(plain.model), batches[0]!.inputs.x);
      expect(own).toBeLessThan(other);
      const fresh = inputs("c");
      expect(await errors(cut(base), cut(measured.model), fresh)).toBeLessThan(
        await errors(cut(base), cut(plain.model), fresh),
      );
      expect(aware.layers[0]!.dataError).toBeLessThan(aware.layers[0]!.relativeError);
    }
  });

  it("refuses no batches", async () => {
    await expect(compressWith(base, [], { rank: 2 })).rejects.toThrow("compressWith: expected batches, got none");
  });

  it("recovers the outputs of the original, and merges what was learnt", async () => {
    const { model } = compress(base, { rank: 6 });
    const { adapter, adapted, history } = await recover(base, model, batches, {
      config: { r: 4, loraAlpha: 4 },
      learningRate: 0.02,
      epochs: 60,
      temperature: 2,
    });
    expect(adapted.sites).toHaveLength(4);
    expect(history.losses.at(-1)!).toBeLessThan(0.5 * history.losses[0]!);
    const merged = merge(model, adapter);
    expect(sites(merged).map(({ modulePath }) => modulePath)).toEqual(["fc1.0", "fc1.1", "fc2.0", "fc2.1"]);
    await expect(recover(base, model, batches, { loss: meanSquaredError() })).rejects.toThrow(
      "recover: expected batches with labels for the loss",
    );
  });
});

it("compresses a layer that is called with tokens", async () => {
  const base = twoLayers("MatMul", "3d");
  const tokens = drawn("tokens", 2, 7, 3);
  const { model, layers } = compress(base, { rank: 1, quantize: "int8" });
  expect(layers.map(({ rank }) => rank)).toEqual([1, 1]);
  expect(distance(await outputOf(model, tokens), await outputOf(dense(base, model), tokens))).toBeLessThan(rounding);
  const aware = await compressWith(base, [{ inputs: { x: tokens } }], { rank: 1 });
  expect(aware.layers[0]!.dataError).toBeGreaterThan(0);
});

it("lifts models whose Gemm must have a bias, which the first of two thin layers has not", () => {
  const old = network("Gemm out,in", 9);
  const { model } = compress(old, { rank: 4 });
  expect(model.opsets.get("")).toBeGreaterThanOrEqual(11);
  expect(model.graph.nodes.filter(({ op }) => op === "Gemm").map(({ inputs }) => inputs.length)).toEqual([2, 3, 2, 3]);
  expect(old.opsets.get("")).toBe(9);
});
