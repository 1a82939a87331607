import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDataset } from "./dataset.ts";
import type { InputShape } from "./fields.ts";
import { mix } from "./mix.ts";
import type { PositionedSourceBatch, RowSource, SourcePosition } from "./source.ts";
import { type ChatMessage, loadTokenizer, type TextTokenizer } from "./tokenizer.ts";

const fixtures = join(import.meta.dirname, "../../test/fixtures/tokenizer");

/** What Python's tokenizers and transformers make of the same; scripts/fixtures/tokenizer.py. */
interface Expected {
  readonly texts: Record<string, number[]>;
  readonly messages: ChatMessage[];
  readonly rendered: string;
  readonly prompt: string;
}

let folder = "";
let tokenizer: TextTokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowrank-text-"));
  tokenizer = await loadTokenizer(join(fixtures, "tokenizer.json"));
});
afterAll(() => rm(folder, { recursive: true }));

const inputs: readonly InputShape[] = ["input_ids", "attention_mask", "position_ids"].map((name) => ({
  name,
  type: "int64",
  dims: ["batch", "sequence"],
}));
const start: SourcePosition = { epoch: 0, index: 0 };

let files = 0;
async function lines(rows: readonly object[]): Promise<string> {
  const path = join(folder, `file${files++}.jsonl`);
  await writeFile(path, rows.map((row) => JSON.stringify(row)).join("\n"));
  return path;
}

interface Seen {
  readonly ids: number[][];
  readonly mask: number[][];
  readonly positions: number[][];
  readonly labels: number[][];
  readonly rows: readonly number[];
  readonly next: SourcePosition;
}

function seen({ batch, rows, next }: PositionedSourceBatch): Seen {
  const matrix = (data: ArrayLike<unknown>): number[][] => {
    const width = data.length / batch.labels.dims[0]!;
    return Array.from({ length: batch.labels.dims[0]! }, (_, row) =>
      Array.from({ length: width }, (_, at) => Number(data[row * width + at])),
    );
  };
  const { input_ids, attention_mask, position_ids } = batch.inputs;
  const [ids, mask, positions] = [input_ids!, attention_mask!, position_ids!].map(({ data }) => matrix(data));
  return { ids: ids!, mask: mask!, positions: positions!, labels: matrix(batch.labels.data), rows, next };
}

async function take(source: RowSource, count: number, from = start): Promise<Seen[]> {
  const taken: Seen[] = [];
  for await (const given of source.batches(from)) {
    taken.push(seen(given));
    if (taken.length === count) break;
  }
  return taken;
}

describe("loadTokenizer", () => {
  it("gives the ids and the chat that Python gives", async () => {
    const expected = JSON.parse(await readFile(join(fixtures, "expected.json"), "utf8")) as Expected;
    for (const [text, ids] of Object.entries(expected.texts)) expect(tokenizer.encode(text, true)).toEqual(ids);
    expect(tokenizer.chat!(expected.messages, { prompt: false })).toBe(expected.rendered);
    expect(tokenizer.chat!(expected.messages.slice(0, 1), { prompt: true })).toBe(expected.prompt);
    expect([tokenizer.bos, tokenizer.eos, tokenizer.pad]).toEqual([null, 1, 0]);
    expect(tokenizer.decode(tokenizer.encode("naïve café", false))).toBe("naïve café");
  });

  it("refuses what is no tokenizer", async () => {
    await expect(loadTokenizer(join(folder, "none.json"))).rejects.toMatchObject({ code: "file" });
    const path = join(folder, "broken.json");
    await writeFile(path, "{");
    await expect(loadTokenizer(path)).rejects.toThrow(`${path}: expected JSON`);
  });
});

describe("texts", () => {
  it("end with the end token, are padded to the longest, and masked there", async () => {
    const data = await openDataset(await lines([{ text: "x" }, { text: "The quick" }]));
    const source = await data.source({ inputs, text: { tokenizer }, shuffle: false });
    const [batch] = await take(source, 1);
    expect(batch).toMatchObject({
      ids: [
        [91, 1, 0],
        [274, 298, 1],
      ],
      mask: [
        [1, 1, 0],
        [1, 1, 1],
      ],
      // The first token of a row is never predicted.
      labels: [
        [-100, 1, -100],
        [-100, 298, 1],
      ],
    });
    await data.close();
  });

  it("count the completion in the loss, not the prompt, unless told so", async () => {
    const data = await openDataset(await lines([{ prompt: "The quick", completion: "x" }]));
    const options = { inputs, shuffle: false } as const;
    const [masked] = await take(await data.source({ ...options, text: { tokenizer } }), 1);
    expect([masked!.ids, masked!.labels]).toEqual([[[274, 298, 91, 1]], [[-100, -100, 91, 1]]]);
    const [whole] = await take(await data.source({ ...options, text: { tokenizer, trainOnPrompt: true } }), 1);
    expect(whole!.labels).toEqual([[-100, 298, 91, 1]]);
    const cut = data.source({ ...options, text: { tokenizer, maxLength: 2 } });
    await expect(cut).rejects.toThrow("the prompt alone has 2 tokens or more (maxLength): nothing to learn is left");
    await data.close();
  });

  it("of chats count the assistant's turns", async () => {
    const messages = [
      { role: "user", content: "x" },
      { role: "assistant", content: "a dog" },
      { role: "user", content: "x" },
      { role: "assistant", content: "x" },
    ];
    const data = await openDataset(await lines([{ messages }]));
    const [batch] = await take(await data.source({ inputs, text: { tokenizer }, shuffle: false }), 1);
    const dog = tokenizer.encode("a dog", false);
    expect(batch!.ids).toEqual([[2, 91, 3, ...dog, 1, 2, 91, 3, 91, 1]]);
    expect(batch!.labels).toEqual([[-100, -100, -100, ...dog, 1, -100, -100, -100, 91, 1]]);
    const faulty = await openDataset(
      await lines([
        { messages },
        { messages: [{ role: "user", content: "x" }] },
        { messages: "x" },
        { messages: null },
      ]),
    );
    await expect(faulty.source({ inputs, text: { tokenizer } })).rejects.toMatchObject({
      faults: [
        expect.stringMatching(/:2: messages: expected a turn of the "assistant"/),
        expect.stringMatching(/:3: messages: expected a list of/),
        expect.stringMatching(/:4: messages: expected a list of .* got nothing/),
      ],
    });
    await data.close();
    await faulty.close();
  });

  it("are classified by a column of labels", async () => {
    const data = await openDataset(
      await lines([
        { text: "x", label: "no" },
        { text: "The quick brown fox", label: "yes" },
      ]),
    );
    const source = await data.source({ inputs, text: { tokenizer, maxLength: 3 }, shuffle: false });
    expect(source.labels).toEqual(["no", "yes"]);
    expect((await take(source, 1))[0]).toMatchObject({
      ids: [
        [91, 0, 0],
        [274, 298, 272],
      ],
      labels: [[0], [1]],
    });
    await data.close();
  });

  const many = Array.from({ length: 500 }, (_, i) => ({ text: "x".repeat(1 + ((i * 7) % 20)) }));

  it("are sorted by length within groups, each once in a pass, and resumed anywhere", async () => {
    const data = await openDataset(await lines(many));
    const source = await data.source({ inputs, text: { tokenizer }, batchSize: 5, seed: 2 });
    const pass = await take(source, 100);
    expect(source.batchesPerEpoch).toBe(100);
    expect(pass.flatMap(({ rows }) => rows).sort((a, b) => a - b)).toEqual([...many.keys()]);
    const tokens = pass.flatMap(({ mask }) => mask.flat());
    expect(tokens.filter((one) => one === 1).length / tokens.length).toBeGreaterThan(0.9);
    for (const at of [0, 30, 31, 70, 98]) {
      const again = await take(source, 2, JSON.parse(JSON.stringify(pass[at]!.next)) as SourcePosition);
      expect(again.map(({ ids }) => ids)[0]).toEqual(pass[at + 1]!.ids);
    }
    await data.close();
  });

  it("are packed whole, positions and labels beginning anew at each", async () => {
    const data = await openDataset(await lines(many));
    const source = await data.source({ inputs, text: { tokenizer, packing: true, maxLength: 32 }, batchSize: 4 });
    const pass: Seen[] = [];
    for await (const given of source.batches(start)) {
      pass.push(seen(given));
      if (given.next.epoch === 1) break;
    }
    expect(pass.flatMap(({ rows }) => rows).sort((a, b) => a - b)).toEqual([...many.keys()]);
    const tokens = pass.flatMap(({ mask }) => mask.flat());
    expect(tokens.filter((one) => one === 1).length / tokens.length).toBeGreaterThan(0.9);
    for (const { positions, labels, mask } of pass) {
      for (const [row, places] of positions.entries()) {
        for (const [at, place] of places.entries()) {
          if (mask[row]![at] === 1) expect(labels[row]![at] === -100).toBe(place === 0);
        }
      }
    }
    const again = await take(source, 1, pass[2]!.next);
    expect(again[0]!.ids).toEqual(pass[3]!.ids);
    await data.close();
  });
});

describe("mix", () => {
  it("gives each batch its share of replayed rows, padded together, and resumes", async () => {
    const target = await openDataset(await lines(Array.from({ length: 10 }, () => ({ text: "x" }))));
    const general = await openDataset(await lines(Array.from({ length: 7 }, () => ({ text: "The quick brown fox" }))));
    const options = { inputs, text: { tokenizer }, seed: 1 };
    const mixed = mix(await target.source(options), [{ source: await general.source(options), share: 0.5 }], 4);
    expect(mixed.batchesPerEpoch).toBe(5);
    const batches = await take(mixed, 12);
    expect(batches[0]!.ids).toEqual([
      [91, 1, 0, 0, 0],
      [91, 1, 0, 0, 0],
      [274, 298, 272, 294, 1],
      [274, 298, 272, 294, 1],
    ]);
    expect(batches[0]!.labels[0]).toEqual([-100, 1, -100, -100, -100]);
    expect(batches[4]!.next).toMatchObject({ epoch: 1, index: 0 });
    for (const at of [0, 3, 6]) {
      const position = JSON.parse(JSON.stringify(batches[at]!.next)) as SourcePosition;
      expect((await take(mixed, 3, position)).map(({ ids, rows }) => [ids, rows])).toEqual(
        batches.slice(at + 1, at + 4).map(({ ids, rows }) => [ids, rows]),
      );
    }
    const source = await target.source(options);
    expect(() => mix(source, [{ source, share: 1.5 }])).toThrow("expected a share between 0 and 1, got 1.5");
    expect(() => mix(source, [{ source, share: 0.9 }], 1)).toThrow("has no row left");
    await target.close();
    await general.close();
  });
});
