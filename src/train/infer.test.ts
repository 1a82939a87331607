import { afterAll, describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import { attachLora } from "../lora/attach.ts";
import { type Adapter, type LoraConfig, resolveConfig } from "../lora/config.ts";
import { attachAll } from "../lora/full.ts";
import { adapterKeys } from "../lora/keys.ts";
import { bits, drawn, twoLayers } from "../lora/testing/models.ts";
import { readModel } from "../onnx/read.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type AdapterSession, createSession } from "./infer.ts";

/** |a - b| of sums over five float32 values around 1, with the scale multiplied in before or after. */
const rounding = 5e-6;

const sizes = { fc1: [3, 5], fc2: [5, 4] } as const;

/** A random adapter on some of the layers. */
function adapterOf(config: LoraConfig, paths: readonly (keyof typeof sizes)[], name: string): Adapter {
  const resolved = resolveConfig(config);
  const r = resolved.r;
  const tensors = paths.flatMap((path): [string, Tensor][] => {
    const { a, b } = adapterKeys(path);
    const [inFeatures, outFeatures] = sizes[path];
    return [
      [a, drawn(name + a, r, inFeatures)],
      [b, drawn(name + b, outFeatures, r)],
    ];
  });
  return { config: resolved, tensors: new Map(tensors) };
}

const opened: AdapterSession[] = [];
afterAll(() => Promise.all(opened.map((session) => session.dispose())));

async function open(model: Parameters<typeof createSession>[0]): Promise<AdapterSession> {
  const session = await createSession(model);
  opened.push(session);
  return session;
}

const x = drawn("x", 6, 3);

async function outputOf(session: AdapterSession, adapter: Adapter | null = null): Promise<Tensor> {
  return (await session.run({ x }, { adapter })).get("y")!;
}

function distance(a: Tensor, b: Tensor): number {
  return [...a.data].reduce<number>(
    (most, value, index) => Math.max(most, Math.abs(Number(value) - Number(b.data[index]))),
    0,
  );
}

describe("one session", () => {
  it("runs adapters of other ranks, scales and layers than it was opened for, and the base between them", async () => {
    const model = twoLayers();
    const session = await open(attachLora(model, { r: 2, loraAlpha: 2 }));
    const base = bits(await outputOf(await open(model)));
    const adapters = [
      adapterOf({ r: 2, loraAlpha: 2 }, ["fc1", "fc2"], "same"),
      adapterOf({ r: 2, loraAlpha: 16 }, ["fc1", "fc2"], "scaled"),
      adapterOf({ r: 5, loraAlpha: 1 }, ["fc1", "fc2"], "larger"),
      adapterOf({ r: 3, loraAlpha: 4, useRslora: true }, ["fc1", "fc2"], "rslora"),
      adapterOf({ r: 1, loraAlpha: 3 }, ["fc2"], "one layer"),
    ];
    for (const adapter of adapters) {
      const expected = await outputOf(await open(merge(model, adapter)));
      const actual = await outputOf(session, adapter);
      expect(distance(actual, expected)).toBeLessThan(rounding);
      expect(distance(actual, await outputOf(session))).toBeGreaterThan(0.01);
      expect(bits(await outputOf(session))).toEqual(base);
      // Prepared once, and the same again.
      expect(bits(await outputOf(session, adapter))).toEqual(bits(actual));
    }
  });

  it("takes scales that patterns give to single layers", async () => {
    const model = twoLayers();
    const config = { r: 2, loraAlpha: 2, rankPattern: { fc2: 3 }, alphaPattern: { fc1: 7 } };
    const [first, second] = [adapterOf({ r: 2 }, ["fc1"], "p"), adapterOf({ r: 3 }, ["fc2"], "p")];
    const adapter: Adapter = { config: resolveConfig(config), tensors: new Map([...first.tensors, ...second.tensors]) };
    const expected = await outputOf(await open(merge(model, adapter)));
    expect(
      distance(await outputOf(await open(attachLora(model, { r: 8, loraAlpha: 5 })), adapter), expected),
    ).toBeLessThan(rounding);
  });

  it("does not change the adapters that it runs", async () => {
    const session = await open(attachLora(twoLayers(), { r: 2 }));
    const adapter = adapterOf({ r: 3, loraAlpha: 9 }, ["fc1", "fc2"], "kept");
    const before = structuredClone(adapter.tensors);
    await outputOf(session, adapter);
    expect(adapter.tensors).toEqual(before);
  });

  it("runs a plain model, and a whole trainable one with the weights that it has", async () => {
    const model = twoLayers();
    const plain = await outputOf(await open(model));
    expect(plain.dims).toEqual([6, 4]);
    expect(distance(await outputOf(await open(attachAll(model))), plain)).toBeLessThan(rounding);
  });
});

describe("adapters that PEFT wrote, over exports of real architectures", () => {
  /** test/fixtures/golden/README.md: |a - b| <= 1e-5 + 1e-4 |b|. */
  const share = (actual: Tensor, expected: Tensor): number => {
    const wanted = [...expected.data].map(Number);
    return Math.max(
      ...wanted.map((value, at) => Math.abs(Number(actual.data[at]) - value) / (1e-5 + 1e-4 * Math.abs(value))),
    );
  };

  it.each([
    ["gpt2", "base.onnx"],
    ["distilbert", "base.onnx"],
    ["distilbert", "base.legacy.onnx"],
  ])("%s/%s: enabled, disabled and merged", async (name, file) => {
    const model = readModel(goldenFile(`${name}/${file}`));
    const { tensors } = readSafetensors(goldenFile(`${name}/tensors.safetensors`), name);
    const files = ["adapter_config.json", "adapter_model.safetensors"].map(
      (one) => [one, goldenFile(`${name}/adapter/${one}`)] as const,
    );
    const adapter = readAdapter(new Map(files));
    const inputs = Object.fromEntries(
      [...tensors].flatMap(([key, value]) => (key.startsWith("input.") ? [[key.slice(6), value]] : [])),
    );
    const switching = await open(attachLora(model, adapter.config));
    const merged = await open(merge(model, adapter));
    const logits = async (session: AdapterSession, use: Adapter | null) =>
      (await session.run(inputs, { adapter: use })).get("logits")!;
    expect(share(await logits(switching, adapter), tensors.get("logits")!)).toBeLessThan(1);
    expect(share(await logits(switching, null), tensors.get("base.logits")!)).toBeLessThan(1);
    expect(share(await logits(merged, null), tensors.get("merged.logits")!)).toBeLessThan(1);
    expect(share(await logits(switching, null), tensors.get("logits")!)).toBeGreaterThan(100);
  });
});

describe("what does not fit", () => {
  it("an adapter for a plain model", async () => {
    const session = await open(twoLayers());
    await expect(outputOf(session, adapterOf({}, ["fc1"], "a"))).rejects.toMatchObject({
      code: "adapter",
      message: expect.stringMatching(/plain model: open it on attachLora/),
    });
  });

  it("an adapter of other layers or shapes: all faults at once", async () => {
    const session = await open(attachLora(twoLayers(), { r: 2, targetModules: ["fc1", "fc2"] }));
    const { config, tensors } = adapterOf({ r: 2 }, ["fc1", "fc2"], "a");
    const [fc1, fc2, fc3] = [adapterKeys("fc1"), adapterKeys("fc2"), adapterKeys("fc3")];
    const faulty = new Map<string, Tensor>([...tensors, [fc1.a, drawn("a", 2, 4)], [fc3.a, drawn("a", 2, 4)]]);
    faulty.delete(fc2.b);
    await expect(outputOf(session, { config, tensors: faulty })).rejects.toMatchObject({
      code: "adapter",
      faults: [
        `${fc3.a}: the model has no branch for it`,
        "fc1: expected float32 A [r,3] and B [5,r], got float32 [2,4] and float32 [5,2]",
        "fc2: expected float32 A [r,5] and B [4,r], got float32 [2,5] and nothing",
      ],
    });
  });

  it("an adapter of another type", async () => {
    const session = await open(attachLora(twoLayers(), { r: 1, targetModules: ["fc1"] }));
    const { config, tensors } = adapterOf({ r: 1 }, ["fc1"], "a");
    const { a } = adapterKeys("fc1");
    const half = new Map<string, Tensor>([...tensors, [a, tensor("float16", [1, 3], new Uint16Array(3))]]);
    await expect(outputOf(session, { config, tensors: half })).rejects.toMatchObject({
      message: expect.stringMatching(/got float16 \[1,3\] and float32 \[5,1\]/),
    });
  });

  it("inputs that are missing or of another shape", async () => {
    const session = await open(attachLora(twoLayers(), { r: 1 }));
    await expect(session.run({})).rejects.toMatchObject({ code: "data", message: "batch: input x: missing" });
    await expect(session.run({ x: drawn("x", 3) })).rejects.toMatchObject({
      code: "data",
      message: expect.stringMatching(/expected float32 \[batch, 3\], got float32 \[3\]/),
    });
  });
});
