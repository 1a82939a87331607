import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadTokenizer, type TextTokenizer } from "../data/tokenizer.ts";
import type { Prompt } from "./prompts.ts";
import { promptOf, promptsOf } from "./prompts.ts";
import { resolveOptions } from "./settings.ts";

let [folder, tokenizer] = ["", null as TextTokenizer | null];
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-prompts-"));
  const path = fileURLToPath(new URL("../../test/fixtures/tokenizer/tokenizer.json", import.meta.url));
  tokenizer = await loadTokenizer(path);
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, rows: readonly unknown[]): string {
  writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return join(folder, name);
}

async function prompts(data: string, flags: Record<string, string | boolean | string[]> = {}): Promise<Prompt[]> {
  const found: Prompt[] = [];
  const options = resolveOptions("predict", { data: [data], ...flags });
  for await (const one of promptsOf(options, tokenizer!, () => {})) found.push(one);
  return found;
}

describe("prompts", () => {
  it("are read as training reads what stands before an answer", () => {
    expect(promptOf("the fox", tokenizer!, false)).toEqual({
      text: "the fox",
      ids: tokenizer!.encode("the fox", false),
    });
    const begun = { ...tokenizer!, bos: 1 };
    expect(promptOf("the fox", begun, false).ids).toEqual([1, ...tokenizer!.encode("the fox", false)]);
  });

  it("of a chat end where the assistant begins", async () => {
    const said = "<user>the fox<bot>";
    expect(promptOf("the fox", tokenizer!, true)).toEqual({ text: said, ids: tokenizer!.encode(said, false) });
    const turns = [
      { role: "user", content: "the fox" },
      { role: "assistant", content: "a dog" },
      { role: "user", content: "and?" },
    ];
    const path = write("chat.jsonl", [{ messages: turns }, { messages: turns.slice(0, 2) }]);
    expect((await prompts(path)).map(({ text }) => text)).toEqual([
      "<user>the fox<bot>a dog<eos><user>and?<bot>",
      said,
    ]);
    expect(() => promptOf("a", { ...tokenizer!, chat: null }, true)).toThrow("the tokenizer has no chat template");
  });

  it("come from the column that a map names, filtered", async () => {
    const path = write("words.jsonl", [
      { words: "one", n: 1 },
      { words: "two", n: 2 },
    ]);
    await expect(prompts(path)).rejects.toThrow("expected a column prompt, text or messages");
    const found = await prompts(path, { map: ["text=words"], filter: ["n=2"] });
    expect(found.map(({ text }) => text)).toEqual(["two"]);
  });

  it("that are none are named by line, or left out", async () => {
    const path = write("holes.jsonl", [{ prompt: "one" }, { prompt: null }, { prompt: "" }]);
    await expect(prompts(path)).rejects.toMatchObject({
      faults: [`${path}:2: prompt: expected a text, got nothing`, `${path}:3: prompt: expected a text, got ""`],
    });
    expect(await prompts(path, { onBadRow: "skip" })).toHaveLength(1);
    const chat = write("faulty.jsonl", [{ messages: [{ role: "user", content: "a" }] }, { messages: [{ role: 1 }] }]);
    await expect(prompts(chat)).rejects.toThrow("faulty.jsonl:2: messages: expected a list of { role, content }");
  });
});
