// The commands of docs/guides, run in their order on small data: what stands in ```sh is a command line, and must succeed. Models
// have random weights (scripts/fixtures/guides.py), so that only what is easy can be learnt.
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import { type Ended, lowrank } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const guides = join(root, "docs", "guides");
const fixtures = join(root, "test", "fixtures");

/** The words of each command of a guide. */
function commandsOf(guide: string): string[][] {
  const text = readFileSync(join(guides, guide), "utf8");
  const blocks = [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block!);
  return blocks.flatMap((block) => block.trimEnd().split("\n").map(wordsOf));
}

/** As a shell splits a line without variables. */
function wordsOf(line: string): string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
}

async function follow(guide: string, folder: string): Promise<Ended[]> {
  const ended: Ended[] = [];
  for (const [program, ...args] of commandsOf(guide)) {
    expect(program, guide).toBe("lowrank");
    const one = await lowrank(args, { cwd: folder });
    expect(one.code, `${args.join(" ")}\n${one.stderr}`).toBe(0);
    ended.push(one);
  }
  return ended;
}

function writeLines(folder: string, name: string, rows: readonly object[]): void {
  writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

/** The model and its tokenizer, as a guide has them beside each other. */
function placeModel(folder: string, model: string, name = "model.onnx"): void {
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(fixtures, "guides", model), join(folder, name));
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(join(fixtures, "tokenizer", file), join(folder, file));
  }
}

it("are all tested here", () => {
  const tested = ["README.md", "decoder.md", "image-folder.md", "pytorch.md", "text-classifier.md"];
  expect(readdirSync(guides).sort()).toEqual(tested);
});

describe("tune a text classifier", () => {
  const folder = temporaryFolder();
  const words = { good: ["fine", "great", "lovely", "warm"], bad: ["thin", "dull", "weak", "cold"] };
  const labels = ["bad", "good"] as const;
  const things = ["plot", "sound", "book", "song", "end", "cast", "light", "pace"];
  const reviews = (from: number, count: number): { text: string; label: "good" | "bad" }[] =>
    Array.from({ length: count }, (_, at) => {
      const label = labels[at % 2]!;
      const [own, number] = [words[label], from + at];
      const pick = (shift: number): string => own[(number >> shift) % 4]!;
      return { text: `${pick(1)} ${things[number % 8]!}, ${pick(3)} ${things[(number >> 3) % 8]!} ${number}`, label };
    });

  beforeAll(() => {
    placeModel(join(folder, "encoder"), "encoder.onnx");
    writeLines(folder, "reviews.jsonl", reviews(0, 480));
    writeLines(folder, "unseen.jsonl", reviews(600, 48));
    const texts = reviews(700, 4).map(({ text }) => ({ text }));
    writeLines(folder, "new.jsonl", texts);
  });

  it("learns, and names what it finds", async () => {
    const ended = await follow("text-classifier.md", folder);
    const { results } = JSON.parse(readFileSync(join(folder, "runs/reviews-eval/summary.json"), "utf8")) as {
      results: { accuracy: number }[];
    };
    expect(results[1]!.accuracy).toBeGreaterThan(0.9);
    const answers = ended[3]!.stdout.trimEnd().split("\n");
    expect(answers.map((line) => (JSON.parse(line) as { label: string }).label)).toEqual([
      "bad",
      "good",
      "bad",
      "good",
    ]);
    expect(readFileSync(join(folder, "runs/compared.html"), "utf8")).toContain("2 runs compared");
  });
});

describe("tune an image classifier on a folder", () => {
  const folder = temporaryFolder();

  /** Brightness by class, with stripes that differ from image to image. */
  async function writeImages(name: string, count: number, shift = 0): Promise<void> {
    for (const [label, kind] of ["ash", "beech", "oak"].entries()) {
      mkdirSync(join(folder, name, kind), { recursive: true });
      for (let at = 0; at < count; at++) {
        const pixels = Buffer.from(
          Array.from({ length: 20 * 20 }, (_, pixel) => 30 + 85 * label + shift + ((pixel * (at + 3)) % 23)),
        );
        const file = join(folder, name, kind, `${String(at).padStart(4, "0")}.png`);
        await sharp(pixels, { raw: { width: 20, height: 20, channels: 1 } })
          .png()
          .toFile(file);
      }
    }
  }

  beforeAll(async () => {
    copyFileSync(join(fixtures, "golden", "cnn", "model.onnx"), join(folder, "network.onnx"));
    await writeImages("photos", 40);
    await writeImages("more-photos", 12, 8);
    await writeImages("unseen-photos", 4);
  });

  it("learns the folder's classes", async () => {
    const ended = await follow("image-folder.md", folder);
    const { results } = JSON.parse(readFileSync(join(folder, "runs/trees-eval/summary.json"), "utf8")) as {
      results: { accuracy: number }[];
    };
    expect(results[1]!.accuracy).toBeGreaterThan(results[0]!.accuracy);
    const found = ended.at(-1)!.stdout.trimEnd().split("\n");
    expect(found).toHaveLength(12);
    expect(["ash", "beech", "oak"]).toContain((JSON.parse(found[0]!) as { label: string }).label);
  });
});

describe("tune a small decoder", () => {
  const folder = temporaryFolder();
  const places = ["barn", "tree", "fence", "stone"];
  const animals = ["fox", "dog", "cat", "hen"];
  const answers = (from: number, count: number): object[] =>
    Array.from({ length: count }, (_, at) => {
      const animal = animals[at % 4]!;
      const prompt = `Where is the ${animal} ${from + at}? `;
      return { prompt, completion: `The ${animal} is behind the ${places[at % 4]!}.` };
    });

  beforeAll(() => {
    placeModel(join(folder, "decoder"), "decoder.onnx");
    writeLines(folder, "answers.jsonl", answers(0, 96));
    writeLines(folder, "unseen.jsonl", answers(200, 8));
  });

  it("lowers the perplexity, and says the same merged as with its adapter", async () => {
    const ended = await follow("decoder.md", folder);
    const { results } = JSON.parse(readFileSync(join(folder, "runs/answers-eval/summary.json"), "utf8")) as {
      results: { perplexity: number }[];
    };
    expect(results[1]!.perplexity).toBeLessThan(results[0]!.perplexity);
    const [greedy, drawn, , merged] = ended.slice(2);
    expect(merged!.stdout).toBe(greedy!.stdout);
    expect(drawn!.stdout).not.toContain(".");
  });
});

describe("from PyTorch to lowrank and back", () => {
  const folder = temporaryFolder();

  beforeAll(() => {
    placeModel(folder, "decoder.onnx");
    writeLines(
      folder,
      "texts.jsonl",
      Array.from({ length: 40 }, (_, at) => ({ text: `the quick brown fox ${at}` })),
    );
    // An adapter for the same layers, as PEFT lays it out.
    cpSync(join(fixtures, "guides", "from-peft"), join(folder, "from-peft"), { recursive: true });
  });

  it("runs both adapters", async () => {
    await follow("pytorch.md", folder);
    const { results } = JSON.parse(readFileSync(join(folder, "runs/both/summary.json"), "utf8")) as {
      results: { name: string; loss: number }[];
    };
    expect(results.map(({ name }) => name)).toEqual(["base", "best", "from-peft"]);
    expect(results[1]!.loss).toBeLessThan(results[0]!.loss);
  });
});
