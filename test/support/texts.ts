// Small texts for the tiny golden models (their vocabularies have about fifty tokens), and a tokenizer of whole words for them.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const special = ["[PAD]", "[UNK]", "[EOS]"];
const good = ["good", "fine", "great", "lovely"];
const bad = ["bad", "poor", "awful", "dull"];
const neutral = ["the", "a", "film", "book", "song", "was", "is", "very", "quite", "and"];

/** Writes tokenizer.json and tokenizer_config.json into `folder`. */
export function writeWordTokenizer(folder: string): void {
  const words = [...special, ...good, ...bad, ...neutral];
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "Whitespace" },
    post_processor: null,
    decoder: null,
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    },
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(json));
  writeFileSync(
    join(folder, "tokenizer_config.json"),
    JSON.stringify({ eos_token: "[EOS]", pad_token: "[PAD]", unk_token: "[UNK]" }),
  );
}

/** Opinions: `text`, and what it says of the thing, as `label` "good" or "bad". No two are the same. */
export function opinions(): { text: string; label: string }[] {
  const rows: { text: string; label: string }[] = [];
  for (const article of ["the", "a"]) {
    for (const thing of ["film", "book", "song"]) {
      for (const verb of ["was", "is"]) {
        for (const degree of ["", "very ", "quite "]) {
          for (const [label, words] of [["good", good] as const, ["bad", bad] as const]) {
            for (const word of words) rows.push({ text: `${article} ${thing} ${verb} ${degree}${word}`, label });
          }
        }
      }
    }
  }
  return rows;
}

export function writeJsonLines(folder: string, name: string, rows: readonly object[]): void {
  writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}
