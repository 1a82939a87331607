// The variants of LoRA against PyTorch and PEFT 0.21 (test/fixtures/peft, and peft-tied for trained rows of embeddings whose
// values the output layer has too): logits, loss and every gradient, with the adapter, without it, and merged, in both of
// PyTorch's exports.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { merge } from "../adapter/merge.ts";
import { readAdapter, readAdapters, writeAdapters } from "../adapter/peft.ts";
import { readSafetensors } from "../adapter/safetensors.ts";
import { attachLora } from "../lora/attach.ts";
import type { Adapter } from "../lora/config.ts";
import { initAdapter } from "../lora/init.ts";
import { bits } from "../lora/testing/models.ts";
import type { Model } from "../onnx/model.ts";
import { readModel } from "../onnx/read.ts";
import { writeModel } from "../onnx/write.ts";
import type { Tensor } from "../tensor.ts";
import { createSession } from "./infer.ts";
import { crossEntropy } from "./losses.ts";
import { valueAndGrad } from "./value-and-grad.ts";

const fixtures = new URL("../../test/fixtures/", import.meta.url);
/** Folders that hold a base in both exports, and one folder for each case. */
const bases = ["peft", "peft-tied/declared", "peft-tied/shared", "peft-tied/equal"];
const cases = bases.flatMap((base) =>
  readdirSync(new URL(`${base}/`, fixtures), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && existsSync(new URL(`${base}/${entry.name}/case.json`, fixtures)))
    .map(({ name }) => `${base}/${name}`),
);
/**
 * Where one parameter is in both places and the output layer does not follow the rows, PEFT merges them into that parameter, and
 * so into the output layer too: its merged model is not what it trained. Ours is.
 */
const mergedThroughTie = new Set(["peft-tied/declared/apart", "peft-tied/shared/both", "peft-tied/shared/rows"]);
const exports = ["base.onnx", "base.legacy.onnx"];

function load(name: string, file: string): { model: Model; adapter: Adapter; tensors: ReadonlyMap<string, Tensor> } {
  const bytes = (path: string): Uint8Array => new Uint8Array(readFileSync(new URL(path, fixtures)));
  const files = ["adapter_config.json", "adapter_model.safetensors"].map(
    (part) => [part, bytes(`${name}/adapter/${part}`)] as const,
  );
  const warnings: string[] = [];
  const adapter = readAdapter(new Map(files), { onWarning: (warning) => warnings.push(warning) });
  expect(warnings).toEqual([]);
  const { tensors } = readSafetensors(bytes(`${name}/tensors.safetensors`), name);
  return { model: readModel(bytes(`${name}/../${file}`)), adapter, tensors };
}

/** |a - b| <= 1e-5 + 1e-4 |b|, the golden cases' tolerance. */
function expectClose(what: string, actual: Tensor | undefined, expected: Tensor): void {
  expect(actual?.dims, what).toEqual(expected.dims);
  const worst = [...(expected.data as Float32Array)].reduce((share, value, index) => {
    const error = Math.abs(Number(actual!.data[index]) - value) / (1e-5 + 1e-4 * Math.abs(value));
    return Math.max(share, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
  }, 0);
  expect(worst, what).toBeLessThanOrEqual(1);
}

async function logitsOf(model: Parameters<typeof createSession>[0], ids: Tensor, adapter?: Adapter): Promise<Tensor> {
  const session = await createSession(model, { threads: 1 });
  try {
    return [...(await session.run({ ids }, adapter === undefined ? {} : { adapter })).values()][0]!;
  } finally {
    await session.dispose();
  }
}

describe.each(exports)("PEFT's adapters on %s", (file) => {
  it.each(cases)("%s: loss, logits and gradients are PyTorch's", async (name) => {
    const { model, adapter, tensors } = load(name, file);
    const adapted = attachLora(model, adapter.config);
    const batch = { inputs: { ids: tensors.get("input.ids")! }, labels: tensors.get("labels")! };
    try {
      const { loss, outputs, grads } = await valueAndGrad(adapted, adapter, batch, crossEntropy());
      expect(Math.abs(loss - Number(tensors.get("loss")!.data[0]))).toBeLessThan(1e-5);
      expectClose("logits", [...outputs.values()][0], tensors.get("logits")!);
      const wanted = [...tensors.keys()].filter((key) => key.startsWith("grad.")).map((key) => key.slice(5));
      expect([...grads.keys()].sort()).toEqual(wanted.sort());
      for (const key of wanted) expectClose(key, grads.get(key), tensors.get(`grad.${key}`)!);
    } finally {
      await adapted.dispose();
    }
  });

  it.each(cases)("%s: a session runs it, and the base bit for bit without it or with a fresh one", async (name) => {
    const { model, adapter, tensors } = load(name, file);
    const ids = tensors.get("input.ids")!;
    const adapted = attachLora(model, adapter.config);
    const base = await logitsOf(model, ids);
    expectClose("base logits", base, tensors.get("base.logits")!);
    expectClose("logits", await logitsOf(adapted, ids, adapter), tensors.get("logits")!);
    expect(bits(await logitsOf(adapted, ids))).toEqual(bits(base));
    expect(bits(await logitsOf(adapted, ids, initAdapter(adapted).adapter))).toEqual(bits(base));
  });

  it.each(cases)("%s: merged, it gives what PEFT's merge_and_unload gives", async (name) => {
    const { model, adapter, tensors } = load(name, file);
    const merged = readModel(writeModel(merge(model, adapter)));
    const expected = tensors.get(mergedThroughTie.has(name) ? "logits" : "merged.logits")!;
    expectClose("merged logits", await logitsOf(merged, tensors.get("input.ids")!), expected);
  });
});

describe("several adapters that PEFT saved in one directory", () => {
  const named = new URL("peft/named/", fixtures);
  const files = new Map(
    readdirSync(named, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const url = new URL(`${entry.name}`, `file://${entry.parentPath.replace(/\/?$/, "/")}`);
        return [url.href.slice(named.href.length), new Uint8Array(readFileSync(url))] as const;
      }),
  );

  it("have PEFT's logits in one session, and the same files when they are written again", async () => {
    const adapters = readAdapters(files);
    expect([...adapters.keys()].sort()).toEqual(["default", "other", "turned"]);
    const { model, tensors } = load("peft/plain", "base.onnx");
    const expected = readSafetensors(files.get("logits.safetensors")!, "named").tensors;
    for (const [name, adapter] of adapters) {
      const logits = await logitsOf(attachLora(model, adapter.config), tensors.get("input.ids")!, adapter);
      expectClose(name, logits, expected.get(name)!);
    }
    const written = writeAdapters(adapters);
    expect(written.size).toBe(files.size - 1);
    for (const [path, bytes] of written) expect([path, bytes]).toEqual([path, files.get(path)]);
  });
});
