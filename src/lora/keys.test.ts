import { describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { adapterKeys, modulesOf, savedKey, savedOf } from "./keys.ts";

const a = "base_model.model.fc.lora_A.weight";
const b = "base_model.model.fc.lora_B.weight";

function faultsOf(tensors: Record<string, Tensor>): readonly string[] {
  try {
    modulesOf({ tensors: new Map(Object.entries(tensors)) });
  } catch (error) {
    expect(error).toBeInstanceOf(LowrankError);
    if (error instanceof LowrankError) {
      expect(error.code).toBe("adapter");
      return error.faults.map((fault) => fault.replace("adapter: ", ""));
    }
  }
  return [];
}

describe("adapterKeys", () => {
  it("are PEFT's", () => {
    expect(adapterKeys("bert.encoder.layer.0.attention.self.query")).toEqual({
      a: "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight",
      b: "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight",
    });
  });
});

describe("modulesOf", () => {
  it("knows an Embedding's keys, and a Conv's by their shapes", () => {
    const embedding = adapterKeys("wte", "Embedding");
    expect(embedding).toEqual({
      a: "base_model.model.wte.lora_embedding_A",
      b: "base_model.model.wte.lora_embedding_B",
    });
    const conv = adapterKeys("conv", "Conv2d");
    expect(conv.a).toBe("base_model.model.conv.lora_A.weight");
    const tensors = new Map<string, Tensor>([
      [embedding.a, zeros([2, 11])],
      [embedding.b, zeros([5, 2])],
      [conv.a, zeros([4, 6, 3, 3])],
      [conv.b, zeros([8, 2, 1, 1])],
    ]);
    expect(modulesOf({ tensors }).map(({ path, keys }) => [path, keys])).toEqual([
      ["wte", embedding],
      ["conv", conv],
    ]);
  });

  it("refuses factors that are none of an Embedding or a Conv", () => {
    const embedding = adapterKeys("wte", "Embedding");
    expect(faultsOf({ [embedding.a]: zeros([2, 11]), [embedding.b]: zeros([5, 3]) })).toEqual([
      `${embedding.b}: expected [out, 2] as lora_A has rank 2, got [5, 3]`,
    ]);
    expect(faultsOf({ [embedding.a]: zeros([2, 11, 1]) })).toEqual([
      `${embedding.a}: expected ${embedding.b} with it, got none`,
    ]);
    expect(faultsOf({ [a]: zeros([4, 6, 3]), [b]: zeros([8, 2, 3]) })).toEqual([
      `${b}: expected [out, r / groups, 1, …], got [8, 2, 3]`,
    ]);
    expect(faultsOf({ [a]: zeros([4, 6, 3]), [b]: zeros([8, 3, 1]) })).toEqual([
      `${b}: expected [out, 4 / groups, 1, …] as lora_A has rank 4, got [8, 3, 1]`,
    ]);
  });

  it("gives paths with their A and B, in order", () => {
    const first = { a: tensor("float32", [1, 2], Float32Array.of(1, 2)), b: zeros([3, 1]) };
    const tensors = new Map<string, Tensor>([
      [adapterKeys("z").b, zeros([5, 2])],
      [a, first.a],
      [adapterKeys("z").a, zeros([2, 4])],
      [b, first.b],
    ]);
    const modules = modulesOf({ tensors });
    expect(modules.map(({ path }) => path)).toEqual(["z", "fc"]);
    expect(modules[1]).toEqual({ path: "fc", keys: { a, b }, ...first });
    expect(modules[0]?.b.dims).toEqual([5, 2]);
  });

  it("names keys that say nothing, and what stands alone, all at once", () => {
    const path = "base_model.model.m";
    const faults = faultsOf({
      [`${path}.lora_magnitude_vector`]: zeros([2]),
      [`${path}.lora_B.bias`]: zeros([2]),
      [`${path}.base_layer.bias`]: zeros([2]),
      [`${path}.weight`]: zeros([2, 2]),
      [`${path}.lora_C.weight`]: zeros([2, 2]),
      "base_model.model.lora_A.weight": zeros([2, 2]),
      "fc.lora_A.weight": zeros([2, 2]),
    });
    expect(faults).toEqual([
      `${path}.lora_C.weight: expected a key ending in <module path>.lora_A.weight or <module path>.lora_B.weight, got another`,
      "base_model.model.lora_A.weight: expected a key ending in <module path>.lora_A.weight or <module path>.lora_B.weight, got another",
      "fc.lora_A.weight: expected a key that starts with base_model.model., got another",
      `${path}.lora_magnitude_vector: expected the lora_A and lora_B of its module with it, got none`,
      `${path}.lora_B.bias: expected the lora_A and lora_B of its module with it, got none`,
    ]);
  });

  it("reads what stands beside A and B, and what is saved as it is", () => {
    const fc = "base_model.model.fc";
    const own = { [a]: zeros([2, 3]), [b]: zeros([4, 2]) };
    const [module] = modulesOf({
      tensors: new Map(
        Object.entries({ ...own, [`${fc}.lora_magnitude_vector`]: zeros([4]), [`${fc}.lora_B.bias`]: zeros([4]) }),
      ),
    });
    expect([module?.magnitude?.dims, module?.biasOfB?.dims]).toEqual([[4], [4]]);
    const conv = { [a]: zeros([2, 3, 1, 1]), [b]: zeros([4, 2, 1, 1]), [`${fc}.lora_magnitude_vector`]: zeros([4]) };
    expect(faultsOf(conv)).toEqual([`${fc}.lora_magnitude_vector: expected [1, 4, 1, 1], got [4]`]);
    const keys = ["fc.base_layer.bias", "norm.weight", "head.out.bias", "emb.token_adapter.trainable_tokens_delta"];
    const saved = savedOf(new Map(keys.map((key) => [`base_model.model.${key}`, zeros([1])])));
    expect(saved.map(({ path, name, ofBase }) => [path, name, ofBase])).toEqual([
      ["fc", "bias", true],
      ["norm", "weight", false],
      ["head.out", "bias", false],
      ["emb", "tokens", false],
    ]);
    expect(saved.map((one) => savedKey(one))).toEqual(keys.map((key) => `base_model.model.${key}`));
  });

  it("refuses one matrix without the other, and wrong shapes and types", () => {
    expect(faultsOf({ [a]: zeros([1, 2]) })).toEqual([`${a}: expected ${b} with it, got none`]);
    expect(faultsOf({ [b]: zeros([1, 2]) })).toEqual([`${b}: expected ${a} with it, got none`]);
    expect(faultsOf({ [a]: zeros([2, 3]), [b]: zeros([4, 3]) })).toEqual([
      `${b}: expected [out, 2] as lora_A has rank 2, got [4, 3]`,
    ]);
    expect(faultsOf({ [a]: zeros([2, 3, 1, 1]), [b]: zeros([4]) })).toEqual([
      `${b}: expected [out, r / groups, 1, …], got [4]`,
    ]);
    expect(faultsOf({ [a]: zeros([0, 3]), [b]: zeros([4, 0]) })).toHaveLength(2);
    expect(faultsOf({ [a]: tensor("int8", [1, 1], new Int8Array(1)), [b]: zeros([1, 1]) })).toEqual([
      `${a}: expected a float32 tensor, got int8`,
    ]);
  });

  it("cuts keys of any length, quickly", () => {
    const key = `base_model.model${".token_adapter.".repeat(200_000)}\n.lora_A.weight`;
    const [fault] = faultsOf({ [key]: zeros([1, 1]) });
    expect(fault).toContain("…: expected at most 1024 characters");
    expect(fault?.length).toBeLessThan(400);
  });
});
