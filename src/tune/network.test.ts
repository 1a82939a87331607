import { describe, expect, it } from "vitest";
import { attachAll, currentWeights } from "../lora/full.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
import { linearNetwork } from "./network.ts";

describe("linearNetwork", () => {
  it("is Linear, ReLU, Linear, as computed by hand", async () => {
    const model = linearNetwork([3, 4, 2], 7);
    const weights = currentWeights(attachAll(model));
    const of = (name: string): Float32Array => weights.get(name)!.data as Float32Array;
    const x = [0.5, -1, 2];
    const layer = (input: readonly number[], name: string, size: number): number[] =>
      Array.from({ length: size }, (_, row) =>
        input.reduce(
          (sum, value, column) => sum + value * of(`${name}.weight`)[row * input.length + column]!,
          of(`${name}.bias`)[row]!,
        ),
      );
    const hidden = layer(x, "fc1", 4).map((value) => Math.max(0, value));
    const expected = layer(hidden, "fc2", 2);
    const session = await createSession(model, { threads: 1 });
    const logits = (await session.run({ x: tensor("float32", [1, 3], Float32Array.from(x)) })).get("logits")!;
    await session.dispose();
    expect(logits.dims).toEqual([1, 2]);
    for (const [index, value] of expected.entries()) expect(logits.data[index]).toBeCloseTo(value, 5);
  });

  it("starts as torch.nn.Linear: uniform in +-1/sqrt(in), each layer from a stream of its own", () => {
    const weights = currentWeights(attachAll(linearNetwork([100, 50, 10], 0)));
    const first = [...(weights.get("fc1.weight")!.data as Float32Array)];
    expect(Math.max(...first.map(Math.abs))).toBeLessThanOrEqual(0.1);
    // The variance of U(-a, a) is a^2 / 3.
    const variance = first.reduce((sum, value) => sum + value * value, 0) / first.length;
    expect(variance).toBeGreaterThan(0.0031);
    expect(variance).toBeLessThan(0.0036);
    const other = currentWeights(attachAll(linearNetwork([100, 60, 10], 0)));
    expect([...(other.get("fc1.weight")!.data as Float32Array)].slice(0, 100)).toEqual(first.slice(0, 100));
    expect(weights.get("fc2.weight")!.data).not.toEqual(
      currentWeights(attachAll(linearNetwork([100, 50, 10], 1))).get("fc2.weight")!.data,
    );
  });

  it("refuses sizes that make no network, all at once", () => {
    expect(() => linearNetwork([0.5], 0)).toThrow(/layers: 2 faults\n {2}- expected two sizes.*\n {2}- .* got 0\.5/);
  });
});
