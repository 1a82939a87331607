// Greedy tokens are transformers' own: scripts/fixtures/generate.py.
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { readAdapter } from "../adapter/peft.ts";
import { attachLora } from "../lora/attach.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { goldenFile } from "../onnx/testing/protos.ts";
import { tensor } from "../tensor.ts";
import { type Decoder, type GenerateOptions, openDecoder } from "./generate.ts";
import { fixtureModel } from "./testing/answers.ts";

interface Case {
  readonly prompt: readonly number[];
  readonly tokens: readonly number[];
}

const answers = JSON.parse(
  readFileSync(new URL("../../test/fixtures/generate/greedy.json", import.meta.url), "utf8"),
) as Record<string, readonly Case[]>;

const opened: Decoder[] = [];
afterAll(() => Promise.all(opened.map((decoder) => decoder.dispose())));

async function open(...args: Parameters<typeof openDecoder>): Promise<Decoder> {
  const decoder = await openDecoder(...args);
  opened.push(decoder);
  return decoder;
}

async function tokensOf(decoder: Decoder, prompt: readonly number[], options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of decoder.generate(prompt, options)) tokens.push(token);
  return tokens;
}

/** Scores of the next token by the last one: log of `table[last]`, over [batch, tokens] of any or a fixed size. */
function markov(table: readonly (readonly number[])[], shape: (number | string)[] = ["batch", "tokens"]): Model {
  const g = graphBuilder({ opset: 18 });
  const size = table.length;
  const scores = g.initializer("table", tensor("float32", [size, size], Float32Array.from(table.flat(), Math.log)));
  g.output(g.op("Gather", [scores, g.input("input_ids", "int64", shape)], { axis: 0 }), "float32", [...shape, size]);
  return createModel(g.build(), { opset: 18 });
}

describe("greedy tokens are transformers'", () => {
  it.each(["golden/gpt2/base.onnx", "cache/gpt2.onnx", "cache/llama.onnx"])("%s", async (file) => {
    const decoder = await open(fixtureModel(file));
    for (const { prompt, tokens } of answers[file]!) {
      expect(await tokensOf(decoder, prompt, { maxNewTokens: 10 })).toEqual(tokens);
    }
  });

  it("with PEFT's adapter, switched off and on in one session", async () => {
    const adapter = readAdapter({
      "adapter_config.json": goldenFile("gpt2/adapter/adapter_config.json"),
      "adapter_model.safetensors": goldenFile("gpt2/adapter/adapter_model.safetensors"),
    });
    const decoder = await open(attachLora(fixtureModel("golden/gpt2/base.onnx"), adapter.config));
    for (const [at, { prompt, tokens }] of answers["golden/gpt2/adapter"]!.entries()) {
      expect(await tokensOf(decoder, prompt, { maxNewTokens: 10, adapter })).toEqual(tokens);
      const base = answers["golden/gpt2/base.onnx"]![at]!;
      expect(await tokensOf(decoder, prompt, { maxNewTokens: 10 })).toEqual(base.tokens);
    }
  });

  it("with a branch beside a cache", async () => {
    const decoder = await open(attachLora(fixtureModel("cache/llama.onnx"), { targetModules: ["q_proj"] }));
    const { prompt, tokens } = answers["cache/llama.onnx"]![0]!;
    expect(await tokensOf(decoder, prompt, { maxNewTokens: 10 })).toEqual(tokens);
  });
});

describe("generate", () => {
  const next = [
    [0.1, 0.8, 0.1],
    [0.1, 0.1, 0.8],
    [0.8, 0.1, 0.1],
  ];

  it("ends at an end token, which it does not give, and after as many tokens as were asked for", async () => {
    const decoder = await open(markov(next));
    expect(await tokensOf(decoder, [0], { maxNewTokens: 4 })).toEqual([1, 2, 0, 1]);
    expect(await tokensOf(decoder, [0], { endTokens: [0] })).toEqual([1, 2]);
    expect(await tokensOf(decoder, [0], { maxNewTokens: 0 })).toEqual([]);
  });

  it("draws as the model has it at temperature 1, sharper below, and the same for the same seed", async () => {
    const decoder = await open(
      markov([
        [0.2, 0.3, 0.5],
        [0.2, 0.3, 0.5],
        [0.2, 0.3, 0.5],
      ]),
    );
    const drawn = await tokensOf(decoder, [0], { maxNewTokens: 3000, temperature: 1, seed: 1 });
    const share = (tokens: number[], token: number): number =>
      tokens.filter((one) => one === token).length / tokens.length;
    // Three standard deviations of a share of 0.5 in 3000 are 0.027.
    for (const [token, expected] of [0.2, 0.3, 0.5].entries())
      expect(Math.abs(share(drawn, token) - expected)).toBeLessThan(0.027);
    const sharp = await tokensOf(decoder, [0], { maxNewTokens: 3000, temperature: 0.5, seed: 1 });
    expect(Math.abs(share(sharp, 2) - 0.25 / 0.38)).toBeLessThan(0.027);
    const again = await tokensOf(decoder, [0], { maxNewTokens: 50, temperature: 1, seed: 1 });
    expect(again).toEqual(drawn.slice(0, 50));
    expect(await tokensOf(decoder, [0], { maxNewTokens: 50, temperature: 1, seed: 2 })).not.toEqual(again);
  });

  it("fills up what an export has fixed, and ends where that is full", async () => {
    const decoder = await open(markov(next, [2, 4]));
    expect(await tokensOf(decoder, [0, 1], {})).toEqual([2, 0, 1]);
    await expect(tokensOf(decoder, [0, 1, 2, 0, 1], {})).rejects.toThrow(
      "expected at most the model's 4 tokens, got 5",
    );
  });

  it("says what to do when the model knows no more positions", async () => {
    const decoder = await open(fixtureModel("golden/gpt2/base.onnx"));
    await expect(tokensOf(decoder, [1, 2], { maxNewTokens: 20 })).rejects.toThrow(
      /refused 17 tokens, after 15 new ones: ask for fewer/,
    );
  });

  it("refuses empty prompts, options out of range, and models that are no decoders", async () => {
    const decoder = await open(markov(next));
    await expect(tokensOf(decoder, [], {})).rejects.toThrow("prompt: expected a token or more");
    await expect(tokensOf(decoder, [0], { temperature: -1, maxNewTokens: 0.5 })).rejects.toThrow(
      /maxNewTokens.*\n.*temperature/,
    );
    await expect(openDecoder(fixtureModel("golden/mlp/model.onnx"))).rejects.toThrow(/expected an input input_ids/);
    await expect(openDecoder(markov(next), { output: "none" })).rejects.toThrow(/no output "none"/);
  });
});
