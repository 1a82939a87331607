import { describe, expect, it } from "vitest";
import { createModel, type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { openSession } from "../../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../../tensor.ts";
import { joinDynamicQuantization } from "../lower/dynamic-quantization.ts";
import { lowerPath } from "../lower/lower.ts";
import { backward } from "../walk.ts";
import { blockWeight } from "./quantized.ts";

const random = createRandom(3, "quantized");
const floats = (...dims: number[]) =>
  tensor(
    "float32",
    dims,
    Float32Array.from({ length: elementCount(dims) }, () => random.normal()),
  );
const bytes = (...dims: number[]) =>
  tensor(
    "uint8",
    dims,
    Uint8Array.from({ length: elementCount(dims) }, () => random.integer(256)),
  );

async function run(model: Model, feeds: Record<string, Tensor>): Promise<Tensor[]> {
  const session = await openSession(model, { threads: 1 });
  try {
    return [...(await session.run(new Map(Object.entries(feeds)))).values()];
  } finally {
    await session.dispose();
  }
}

function contribModel(g: GraphBuilder, outputs: readonly Value[]): Model {
  const infos = outputs.map((name) => ({ name, type: undefined, shape: undefined, doc: "" }));
  const model = createModel({ ...g.build(), outputs: infos }, { opset: g.opset });
  return { ...model, opsets: new Map([...model.opsets, ["com.microsoft", 1]]) };
}

function largestGap(a: Tensor, b: Tensor): number {
  expect(a.dims).toEqual(b.dims);
  return Math.max(
    ...Array.from(a.data as Float32Array, (value, index) => Math.abs(value - (b.data as Float32Array)[index]!)),
  );
}

/** d [.., N] times w [N, K], in float64. */
function product(d: Tensor, w: Tensor): Tensor {
  const [N, K] = w.dims as [number, number];
  const dims = [...d.dims.slice(0, -1), K];
  const values = Float32Array.from({ length: elementCount(dims) }, (_, index) => {
    const row = Math.floor(index / K) * N;
    let sum = 0;
    for (let n = 0; n < N; n++) sum += Number(d.data[row + n]) * Number(w.data[n * K + (index % K)]);
    return sum;
  });
  return tensor("float32", dims, values);
}

describe("MatMulNBits", () => {
  const zeroKinds = ["none", "packed", "float"] as const;
  for (const bits of [4, 8] as const) {
    for (const zeros of zeroKinds) {
      // The CPU kernel takes zero points in float for 4 bits only.
      if (bits === 8 && zeros === "float") continue;
      for (const [K, size] of [
        [64, 16],
        [72, 32], // three blocks, the last not full
      ] as const) {
        it(`${bits} bits, zero points ${zeros}, ${K} columns in blocks of ${size}`, async () => {
          const N = 5;
          const blocks = Math.ceil(K / size);
          const g = graphBuilder({ opset: 18, scope: "g/" });
          const x = g.input("x", "float32", ["batch", "time", K]);
          const inputs = [
            x,
            g.initializer("B", bytes(N, blocks, (size * bits) / 8)),
            g.initializer("scales", floats(N, blocks)),
          ];
          if (zeros === "packed") inputs.push(g.initializer("z", bytes(N, Math.ceil((blocks * bits) / 8))));
          if (zeros === "float") inputs.push(g.initializer("z", floats(N, blocks)));
          const attributes = { K, N, bits, block_size: size };
          g.op("MatMulNBits", inputs, attributes, { output: "y", domain: "com.microsoft" });
          const node = g.build().nodes[0]!;

          const weight = blockWeight(g, node, x);
          const plain = g.op("MatMul", [x, g.op("Transpose", [weight], { perm: [1, 0] })]);
          const seed = g.input("seed", "float32", ["batch", "time", N]);
          const dx = backward(g, new Map([["y", seed]]), ["x"]).get("x")!;
          const feeds = { x: floats(2, 3, K), seed: floats(2, 3, N) };
          const results = await run(contribModel(g, ["y", plain, dx, weight]), feeds);
          // The kernel sums many terms in an order of its own, some of them large.
          const scale = Math.max(...Array.from(results[0]!.data as Float32Array, Math.abs));
          expect(largestGap(results[0]!, results[1]!) / scale).toBeLessThan(1e-5);
          expect(largestGap(results[2]!, product(feeds.seed, results[3]!)) / scale).toBeLessThan(1e-5);
        });
      }
    }
  }

  it("keeps its weight packed in the graph", () => {
    const g = graphBuilder({ opset: 18, scope: "g/" });
    const x = g.input("x", "float32", ["batch", 256]);
    const weight = bytes(64, 8, 16);
    const inputs = [x, g.initializer("B", weight), g.initializer("scales", floats(64, 8))];
    g.op("MatMulNBits", inputs, { K: 256, N: 64, bits: 4, block_size: 32 }, { output: "y", domain: "com.microsoft" });
    backward(g, new Map([["y", g.input("seed", "float32", ["batch", 64])]]), ["x"]);
    const total = [...g.build().initializers.values()].reduce((sum, { bytes: { length } }) => sum + length, 0);
    expect(total).toBeLessThan(2.5 * (weight.data.length + 64 * 8 * 4));
    const blocks = [...g.build().initializers].find(([, stored]) => stored.type === "uint4")![1];
    expect(blocks.bytes.buffer).toBe(weight.data.buffer);
  });

  it("refuses forms that it cannot unpack", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 16]);
    const inputs = [x, g.input("B", "uint8", [1, 1, 4]), g.initializer("scales", floats(1, 1))];
    g.op("MatMulNBits", inputs, { K: 16, N: 1, bits: 2, block_size: 16 }, { domain: "com.microsoft", name: "two" });
    expect(() => blockWeight(g, g.build().nodes[0]!, x)).toThrow(/"two".*2 bits are not supported: expected 4 or 8/);
    g.op("MatMulNBits", inputs, { K: 16, N: 1, bits: 4, block_size: 16 }, { domain: "com.microsoft", name: "fed" });
    expect(() => blockWeight(g, g.build().nodes[1]!, x)).toThrow(/"fed".*its input 1 is no constant/);
  });
});

describe("quantized activations", () => {
  it("pass straight through where they are not clipped", async () => {
    const g = graphBuilder({ opset: 18, scope: "g/" });
    const x = g.input("x", "float32", ["n"]);
    const scale = g.initializer("s", tensor("float32", [], Float32Array.of(0.1)));
    const zero = g.initializer("z", tensor("uint8", [], Uint8Array.of(100)));
    const q = g.op("QuantizeLinear", [x, scale, zero]);
    const moved = g.op("Reshape", [q, g.constant("int64", [-1, 1])]);
    g.op("DequantizeLinear", [moved, scale, zero], {}, { output: "y" });
    const seed = g.input("seed", "float32", ["n", 1]);
    const dx = backward(g, new Map([["y", seed]]), ["x"]).get("x")!;
    // 0.1 (0 - 100) = -10 and 0.1 (255 - 100) = 15.5 are the ends of what can be represented.
    const results = await run(contribModel(g, ["y", dx]), {
      x: tensor("float32", [5], Float32Array.of(-11, -9.97, 0.33, 15.4, 16)),
      seed: tensor("float32", [5, 1], Float32Array.of(1, 2, 3, 4, 5)),
    });
    const rounded = [...(results[0]!.data as Float32Array)].map((value) => Math.round(value * 100) / 100);
    expect(rounded).toEqual([-10, -10, 0.3, 15.4, 15.5]);
    expect([...(results[1]!.data as Float32Array)]).toEqual([0, 2, 3, 4, 0]);
  });

  it("have a scale for each place along an axis", async () => {
    const g = graphBuilder({ opset: 18, scope: "g/" });
    const x = g.input("x", "float32", ["n", 2, 3]);
    const scale = g.initializer("s", tensor("float32", [2], Float32Array.of(0.01, 1)));
    const zero = g.initializer("z", tensor("int8", [2], new Int8Array(2)));
    const q = g.op("QuantizeLinear", [x, scale, zero], { axis: -2 });
    g.op("DequantizeLinear", [q, scale, zero], { axis: 1 }, { output: "y" });
    const seed = g.input("seed", "float32", ["n", 2, 3]);
    const dx = backward(g, new Map([["y", seed]]), ["x"]).get("x")!;
    const [gradient] = await run(contribModel(g, [dx]), {
      x: tensor("float32", [1, 2, 3], Float32Array.of(1, 2, -2, 1, 2, -200)),
      seed: tensor("float32", [1, 2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)),
    });
    const values = [...(gradient!.data as Float32Array)].map((value) => Math.round(value * 1e4) / 1e4);
    expect(values).toEqual([1, 0, 0, 4, 5, 0]);
  });

  it("are no silent end of a path: an operator on quantized values without a gradient is named", () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["n", 4]);
    const [q, , zero] = g.ops("DynamicQuantizeLinear", [x], 3);
    const weight = g.initializer("w", bytes(4, 2));
    const product = g.op("MatMulInteger", [q!, weight, zero!], {}, { name: "product" });
    const y = g.op("Cast", [product], { to: 1 });
    const seed = g.input("seed", "float32", ["n", 2]);
    expect(() => backward(g, new Map([[y, seed]]), ["x"])).toThrow(/MatMulInteger \("product"\)/);
  });
});

describe("dynamically quantized products", () => {
  /** What quantization tools write for x W with W [4, 3] in 8 bits. */
  function exported(perColumn: boolean, weightType: "uint8" | "int8"): { model: Model; dequantized: number[][] } {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", "time", 4]);
    const [q, scale, zero] = g.ops("DynamicQuantizeLinear", [x], 3) as [Value, Value, Value];
    const random8 = bytes(4, 3).data as Uint8Array;
    const weight =
      weightType === "uint8"
        ? tensor("uint8", [4, 3], random8)
        : tensor(
            "int8",
            [4, 3],
            Int8Array.from(random8, (b) => b - 128),
          );
    const dims = perColumn ? [3] : [];
    const steps = perColumn ? [0.02, 0.01, 0.03] : [0.02];
    const places = perColumn ? [3, 0, 7] : [3];
    const zeroPoint =
      weightType === "uint8"
        ? tensor("uint8", dims, Uint8Array.from(places))
        : tensor("int8", dims, Int8Array.from(places));
    const inputs = [q, g.initializer("w", weight), zero, g.initializer("wz", zeroPoint)];
    const product = g.op("Cast", [g.op("MatMulInteger", inputs)], { to: 1 });
    const scales = g.op("Mul", [scale, g.initializer("ws", tensor("float32", dims, Float32Array.from(steps)))]);
    g.op("Mul", [product, scales], {}, { output: "y" });
    g.output("y", "float32", ["batch", "time", 3]);
    const dequantized = Array.from({ length: 4 }, (_, row) =>
      Array.from({ length: 3 }, (__, column) => {
        const at = perColumn ? column : 0;
        return (Number(weight.data[row * 3 + column]) - places[at]!) * steps[at]!;
      }),
    );
    return { model: createModel(g.build(), { opset: 18 }), dequantized };
  }

  for (const weightType of ["uint8", "int8"] as const) {
    for (const perColumn of [false, true]) {
      it(`${weightType}, ${perColumn ? "a scale a column" : "one scale"}: joined without a change, and differentiated`, async () => {
        const { model, dequantized } = exported(perColumn, weightType);
        const joined = joinDynamicQuantization(model);
        const x = floats(2, 3, 4);
        const before = (await run(model, { x }))[0]!;
        expect(largestGap((await run(joined, { x }))[0]!, before)).toBeLessThan(1e-5);

        const g = graphBuilder({ opset: 18, from: lowerPath(model, ["x"], ["y"]).graph, scope: "grad/" });
        const seed = g.input("seed", "float32", ["batch", "time", 3]);
        const dx = backward(g, new Map([["y", seed]]), ["x"]).get("x")!;
        const dy = floats(2, 3, 3);
        const [gradient] = await run(contribModel(g, [dx]), { x, seed: dy });
        // dx = dy W^T
        const wanted = Float32Array.from({ length: 24 }, (_, index) => {
          const weights = dequantized[index % 4]!;
          return weights.reduce(
            (sum, w, column) => sum + w * (dy.data as Float32Array)[Math.floor(index / 4) * 3 + column]!,
            0,
          );
        });
        expect(largestGap(gradient!, tensor("float32", [2, 3, 4], wanted))).toBeLessThan(1e-5);
      });
    }
  }

  it("are joined where the runtime has written them, bias and all", async () => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", ["batch", 4]);
    const [q, scale, zero] = g.ops("DynamicQuantizeLinear", [x], 3) as [Value, Value, Value];
    const weights = [
      g.initializer("w", bytes(4, 3)),
      g.initializer("ws", tensor("float32", [], Float32Array.of(0.02))),
      g.initializer("wz", tensor("uint8", [], Uint8Array.of(9))),
      g.initializer("bias", floats(3)),
    ] as const;
    const inputs = [q, weights[0], scale, weights[1], zero, weights[2], weights[3]];
    g.op("MatMulIntegerToFloat", inputs, {}, { output: "y", domain: "com.microsoft" });
    const model = contribModel(g, ["y"]);
    const joined = joinDynamicQuantization(model);
    expect(joined.graph.nodes.map((node) => node.op)).toContain("DynamicQuantizeMatMul");
    const feeds = { x: floats(5, 4) };
    expect(largestGap((await run(joined, feeds))[0]!, (await run(model, feeds))[0]!)).toBeLessThan(1e-5);
  });

  it("are left alone where they are written in another way", () => {
    const { model } = exported(false, "uint8");
    const nodes = model.graph.nodes.map((node) => (node.op === "Cast" ? { ...node, op: "Identity" } : node));
    const other = { ...model, graph: { ...model.graph, nodes } };
    expect(joinDynamicQuantization(other)).toBe(other);
  });
});
