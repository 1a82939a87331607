// Models whose weights lie beside them: written, opened without reading them, run, trained and merged from there.
import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { merge } from "../adapter/merge.ts";
import { attachLora } from "../lora/attach.ts";
import { drawn } from "../lora/testing/models.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { filePlaceOf } from "../onnx/external.ts";
import type { Model } from "../onnx/model.ts";
import { weightBytes, writeModel, writeModelParts } from "../onnx/write.ts";
import { openSession } from "../runtime/session.ts";
import { tensor, toBytes } from "../tensor.ts";
import { meanSquaredError } from "../train/losses.ts";
import { support } from "../train/support.ts";
import { type ValueAndGrad, valueAndGrad } from "../train/value-and-grad.ts";
import { loadModel } from "./model-file.ts";
import { saveModel } from "./save-model.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-save-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Two layers, the first of 1 MiB (left in its file) and one of 8 KiB (read); and a small bias, which the model itself holds. */
function model(): Model {
  const g = graphBuilder({ opset: 18 });
  const x = g.input("x", "float32", ["batch", 4]);
  const h = g.op("MatMul", [x, g.initializer("up.weight", drawn("up", 4, 65_536))]);
  const small = g.op("Slice", [h, ...[0, 512, 1].map((value) => g.constant("int64", [value]))]);
  const y = g.op("MatMul", [small, g.initializer("down.weight", drawn("down", 512, 4))]);
  g.output(g.op("Add", [y, g.initializer("bias", drawn("bias", 4))], {}, { output: "y" }), "float32", ["batch", 4]);
  return createModel(g.build(), { opset: 18 });
}

/** Compared as a whole: an assertion on a million elements takes seconds. */
function expectSame(a: Uint8Array, b: Uint8Array): void {
  expect(Buffer.compare(a, b)).toBe(0);
}

const config = { r: 2, targetModules: ["up", "down"] };
const x = drawn("x", 3, 4);

describe("a model with its weights beside it", () => {
  it("is the same model when it is read", async () => {
    const path = join(folder, "m.onnx");
    const files = await saveModel(model(), path, { external: true });
    expect(files.map((file) => basename(file))).toEqual([
      "m.onnx",
      expect.stringMatching(/^m\.onnx\.[0-9a-f]{8}\.data$/),
    ]);
    expect(readdirSync(folder).sort()).toEqual(files.map((file) => basename(file)).sort());
    expect(statSync(path).size).toBeLessThan(2000);
    const read = await loadModel(path);
    expectSame(writeModel(read), writeModel(model()));
    // Again, to the same bytes under the same names.
    expect(await saveModel(read, path, { external: true })).toEqual(files);
    expectSame(writeModel(await loadModel(path)), writeModel(model()));
  });

  it("is opened, adapted, trained and run with its weights left where they are", async () => {
    const path = join(folder, "m.onnx");
    await saveModel(model(), path, { external: true });
    const read = await loadModel(path);
    const large = read.graph.initializers.get("up.weight")!;
    expect(filePlaceOf(large)).toMatchObject({ offset: 0, length: 2 ** 20 });
    expect(filePlaceOf(read.graph.initializers.get("down.weight")!)).toBeUndefined();
    // Any look at the bytes would be seen.
    const bytes = vi.spyOn(large, "bytes", "get");
    expect(support(read, config).verdict.trainable).toBe(true);
    expect(writeModelParts(read).folder).toBe(folder);
    const results: ValueAndGrad[] = [];
    for (const one of [read, model()]) {
      const adapted = attachLora(one, config);
      const tensors = new Map(adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)]));
      const batch = { inputs: { x }, labels: drawn("labels", 3, 4) };
      results.push(await valueAndGrad(adapted, { tensors }, batch, meanSquaredError()));
      await adapted.dispose();
    }
    expect(bytes).not.toHaveBeenCalled();
    const [late, early] = results as [(typeof results)[0], (typeof results)[0]];
    expect([late.loss, late.outputs]).toEqual([early.loss, early.outputs]);
    for (const [key, { data }] of late.grads) expectSame(toBytes(data), toBytes(early.grads.get(key)!.data));
  });

  it("is merged into another of that kind", async () => {
    const path = join(folder, "m.onnx");
    await saveModel(model(), path, { external: true });
    const read = await loadModel(path);
    const adapted = attachLora(read, config);
    const tensors = new Map(adapted.parameters.map(({ key, dims }) => [key, drawn(key, ...dims)]));
    const adapter = { config: adapted.config!, tensors };
    await saveModel(merge(read, adapter), join(folder, "merged.onnx"), { external: true });
    const merged = await loadModel(join(folder, "merged.onnx"));
    expectSame(writeModel(merged), writeModel(merge(model(), adapter)));
    const outputs: unknown[] = [];
    for (const one of [merged, merge(model(), adapter)]) {
      const session = await openSession(one);
      outputs.push((await session.run(new Map([["x", x]]))).get("y")!.data);
      await session.dispose();
    }
    expect(outputs[0]).toEqual(outputs[1]);
  });

  it("names the file when it is not what it was", async () => {
    const path = join(folder, "m.onnx");
    const [, data] = (await saveModel(model(), path, { external: true })) as [string, string];
    const read = await loadModel(path);
    truncateSync(data, 100);
    expect(() => read.graph.initializers.get("up.weight")!.bytes).toThrow(/the file ended after 100 bytes/);
    await expect(loadModel(path)).rejects.toThrow(/expected 1048576 bytes at 0, got a file of 100/);
    rmSync(data);
    expect(() => read.graph.initializers.get("up.weight")!.bytes).toThrow(expect.objectContaining({ code: "model" }));
  });

  it("stays one file where that holds it, and is refused as one where it does not", async () => {
    const path = join(folder, "m.onnx");
    expect(await saveModel(model(), path)).toEqual([path]);
    expect(readdirSync(folder)).toEqual(["m.onnx"]);
    const g = graphBuilder({ opset: 18 });
    const large = { type: "float32", dims: [2 ** 15, 2 ** 14], bytes: new Uint8Array(0) } as const;
    g.output(g.op("MatMul", [g.input("x", "float32", [1, 2 ** 15]), g.initializer("w", large)]), "float32");
    const built = createModel(g.build(), { opset: 18 });
    expect(weightBytes(built)).toBe(2 ** 31);
    expect(() => writeModel(built)).toThrow(
      /weights of 2147483648 bytes: one protobuf holds at most 2 GiB; .*saveModel/,
    );
  });

  it("takes weights of two folders, and mixes files with memory", async () => {
    for (const name of ["a", "b"]) await saveModel(model(), join(folder, `${name}.onnx`), { external: true });
    const other = mkdtempSync(join(tmpdir(), "lowrank-save-"));
    try {
      await saveModel(model(), join(other, "c.onnx"), { external: true });
      const [a, c] = [await loadModel(join(folder, "a.onnx")), await loadModel(join(other, "c.onnx"))];
      const initializers = new Map(a.graph.initializers);
      const doubled = tensor(
        "float32",
        [512, 4],
        drawn("down", 512, 4).data.map((value) => 2 * value),
      );
      initializers.set("up.weight", c.graph.initializers.get("up.weight")!);
      const g = graphBuilder({ opset: 18, from: { ...a.graph, initializers } });
      g.initializer("more", doubled);
      const session = await openSession({ ...a, graph: g.build() });
      const y = (await session.run(new Map([["x", x]]))).get("y")!.data;
      await session.dispose();
      const plain = await openSession(model());
      expect(y).toEqual((await plain.run(new Map([["x", x]]))).get("y")!.data);
      await plain.dispose();
    } finally {
      rmSync(other, { recursive: true, force: true });
    }
  });
});
