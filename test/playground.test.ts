// The playground in a real browser: what it teaches, trains, keeps and gives away, and what it refuses. Without a Chromium on this
// machine it is skipped, and says so.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync, zipSync } from "fflate";
import {
  createModel,
  graphBuilder,
  readAdapter,
  readModel,
  readOnnxAdapter,
  tensor,
  writeAdapter,
  writeModel,
} from "lowrank";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { startBrowser } from "./support/browser.ts";
import { root, temporaryFolder } from "./support/folders.ts";
import { largestDifference } from "./support/onnx.ts";
import {
  buildPlayground,
  drawByKeys,
  drawByMouse,
  give,
  logits,
  logitsInNode,
  reading,
  ready,
  type Served,
  saved,
  seenPixels,
  servePlayground,
  settled,
  stickingOut,
  train,
  type Visit,
  violations,
  visit,
  waitUntil,
} from "./support/playground.ts";
import { testByHand } from "./support/playground-hands.ts";

/** What the issue allows between the page and Node.js. */
const tolerance = 1e-4;

const peft = join(root, "test", "fixtures", "playground", "peft");
const folder = temporaryFolder();

// A browser that trains, on a machine that may be busy with other tests.
describe("the playground", { timeout: 180_000 }, () => {
  let browser: Browser | string = "not started";
  let site: Served;
  let open: Visit | undefined;

  beforeAll(async () => {
    browser = await startBrowser();
    if (typeof browser === "string") {
      process.stderr.write(`The playground was not tested: ${browser}\n`);
      return;
    }
    site = await servePlayground(await buildPlayground(join(folder, "site")));
  }, 300_000);

  afterAll(async () => {
    if (typeof browser === "string") return;
    await browser.close();
    await site.close();
  });

  beforeEach((context) => {
    if (typeof browser === "string") context.skip(browser);
  });

  afterEach(async () => {
    await open?.close();
    open = undefined;
  });

  async function enter(options: Parameters<typeof visit>[2] = {}, origin: string = site.origin): Promise<Visit> {
    open = await visit(browser as Browser, origin, options);
    return open;
  }

  it("opens on a digit that the base misreads and the adapter reads right, and says so", async () => {
    const { page, complaints } = await enter();
    const [base, adapted] = [await logits(page, "base"), await logits(page, "adapted")];
    const truth = Number((await page.locator(".truth").innerText()).match(/\d$/)![0]);
    const best = (values: readonly number[]): number => values.indexOf(Math.max(...values));
    expect(best(base)).not.toBe(truth);
    expect(best(adapted)).toBe(truth);
    const sentence = await page.locator(".sentence").innerText();
    expect(sentence).toContain("2,807,010 frozen weights");
    expect(sentence).toContain(`reads this as ${best(base)}`);
    expect(sentence).toContain(`and it reads ${truth}`);
    await page.waitForSelector(".equation .product");
    const sizes = await page.$$eval(".equation canvas", (all) =>
      all.map((canvas) => (canvas as unknown as { width: number }).width),
    );
    expect(sizes).toEqual([196, 4, 196, 196, 196]);
    expect(await page.evaluate("crossOriginIsolated")).toBe(true);
    // Off is the base, bit for bit.
    await page.getByRole("switch", { name: "Adapter" }).uncheck();
    await settled(page);
    expect(await logits(page, "adapted")).toEqual(base);
    expect(complaints).toEqual([]);
  });

  it("reads a digit drawn with the mouse, and one drawn with keys", async () => {
    const { page, complaints } = await enter();
    await page.getByRole("button", { name: "Clear" }).click();
    await drawByMouse(page, [
      [
        [0.55, 0.15],
        [0.45, 0.85],
      ],
    ]);
    await settled(page);
    expect(await reading(page)).toBe("1");
    expect(await page.locator(".speed").getAttribute("data-ms").then(Number)).toBeGreaterThan(0);

    await page.getByRole("button", { name: "Clear" }).click();
    // A seven: along the top, then down to the left.
    const down = Array.from({ length: 8 }, () => [
      ["ArrowDown", 2],
      ["ArrowLeft", 1],
    ]).flat() as [string, number][];
    await drawByKeys(page, [["ArrowUp", 8], ["ArrowLeft", 6], ["Space", 1], ["ArrowRight", 12], ...down, ["Space", 1]]);
    await settled(page);
    expect(await reading(page)).toBe("7");
    expect(complaints).toEqual([]);
  });

  it("learns twenty examples, keeps everything over a reload, and gives away what Node.js computes the same with", async () => {
    const { page, complaints } = await enter();
    await page.getByRole("button", { name: /Take 20 misread/ }).click();
    const said = await train(page);
    const [own, kept] = [...said.matchAll(/(\d+)\s%/g)].map((found) => Number(found[1]));
    expect(own, said).toBeGreaterThan(90);
    expect(kept, said).toBeGreaterThan(80);
    expect(said).toMatch(/Done after 40 steps/);
    expect(await page.locator(".chart canvas").count()).toBeGreaterThanOrEqual(2);
    await page.waitForSelector(".price tr.adapted");
    expect(await page.locator(".price thead th").allInnerTexts()).toEqual([..."0123456789", "all"]);

    await drawByMouse(page, [
      [
        [0.3, 0.2],
        [0.7, 0.2],
        [0.45, 0.85],
      ],
    ]);
    await settled(page);
    const [pixels, before] = [await seenPixels(page), await logits(page, "adapted")];
    await page.waitForTimeout(400);
    await page.reload();
    await ready(page);
    expect(await seenPixels(page)).toEqual(pixels);
    expect(largestDifference(await logits(page, "adapted"), before)).toBeLessThan(tolerance);
    expect(await page.getByRole("heading", { name: "20 examples" }).count()).toBe(1);
    expect(await page.getByLabel(/^Hand 1/).isChecked()).toBe(true);

    const base = readModel(await saved(page, "The base"));
    const adapter = readAdapter(unzipSync(await saved(page, "Adapter, for PEFT")));
    expect(adapter.config).toMatchObject({ r: 4, loraAlpha: 8, targetModules: ["fc1", "fc2", "fc3"] });
    const inNode = await logitsInNode(base, pixels, adapter);
    expect(largestDifference(inNode, before)).toBeLessThan(tolerance);
    expect(largestDifference(await logitsInNode(base, pixels, null), await logits(page, "base"))).toBeLessThan(
      tolerance,
    );
    expect(largestDifference(inNode, await logitsInNode(base, pixels, null))).toBeGreaterThan(0.1);
    const merged = readModel(await saved(page, "Merged model"));
    expect(largestDifference(await logitsInNode(merged, pixels), before)).toBeLessThan(tolerance);
    const flat = readOnnxAdapter(await saved(page, "Adapter, for ONNX Runtime"));
    expect(largestDifference(await logitsInNode(base, pixels, flat), before)).toBeLessThan(tolerance);
    expect(complaints).toEqual([]);
  });

  it("stops a run and goes on from there", async () => {
    const { page, complaints } = await enter({ hash: "#steps=2000" });
    await page.getByRole("button", { name: /Take 20 misread/ }).click();
    await page.getByRole("button", { name: "Train", exact: true }).click();
    await waitUntil(page, `/Step [1-9]/.test(document.querySelector("[data-run]").textContent)`);
    await page.getByRole("button", { name: "Stop" }).click();
    await page.waitForSelector("[data-run=stopped]");
    const stopped = Number((await page.locator("[data-run]").innerText()).match(/after (\d+) steps/)![1]);
    expect(stopped).toBeGreaterThan(0);
    expect(stopped).toBeLessThan(2000);
    await page.getByRole("button", { name: `Resume from step ${stopped}` }).click();
    await waitUntil(
      page,
      `Number(document.querySelector("[data-run]").textContent.match(/Step (\\d+)/)?.[1]) > ${stopped}`,
    );
    await page.getByRole("button", { name: "Stop" }).click();
    await page.waitForSelector("[data-run=stopped]");
    expect(complaints).toEqual([]);
  });

  it("teaches symbols of one's own with a head of their own", async () => {
    const { page, complaints } = await enter({ hash: "#mode=symbols&steps=60" });
    const shapes: Readonly<Record<string, [number, number][]>> = {
      star: [
        [0.2, 0.5],
        [0.8, 0.5],
      ],
      heart: [
        [0.5, 0.2],
        [0.5, 0.8],
      ],
      arrow: [
        [0.25, 0.25],
        [0.75, 0.25],
        [0.75, 0.75],
        [0.25, 0.75],
        [0.25, 0.25],
      ],
    };
    expect(await page.locator("[data-run]").innerText()).toContain("missing: star, heart, arrow");
    for (const [name, points] of Object.entries(shapes)) {
      await page.getByRole("button", { name: "Clear" }).click();
      await drawByMouse(page, [points]);
      await page.getByRole("button", { name: `Add as ${name}` }).click();
    }
    await train(page);
    expect(await reading(page)).toBe("arrow");
    await page.getByRole("button", { name: "Clear" }).click();
    await drawByMouse(page, [shapes.star!]);
    await settled(page);
    expect(await reading(page)).toBe("star");
    const files = unzipSync(await saved(page, "Adapter, for PEFT"));
    const adapter = readAdapter(files);
    expect(adapter.labels).toEqual(["star", "heart", "arrow"]);
    expect(adapter.config.modulesToSave).toEqual(["classifier"]);
    const merged = readModel(await saved(page, "Merged model"));
    expect(
      largestDifference(await logitsInNode(merged, await seenPixels(page)), await logits(page, "adapted")),
    ).toBeLessThan(tolerance);
    expect(complaints).toEqual([]);
  });

  it("shows what a rank and a strength are worth, and what other digits pay", async () => {
    const { page, complaints } = await enter({ hash: "#d=k0&mix=greedy:1" });
    const accuracy = async (): Promise<number> => {
      await page.waitForTimeout(150);
      await settled(page);
      return Number(await page.locator(".price").getAttribute("data-accuracy"));
    };
    await page.waitForSelector(".price tr.adapted .worse");
    const greedy = await accuracy();
    await page.getByLabel("Strength of the adapter").fill("0");
    await waitUntil(page, `document.querySelector(".price .worse") === null`);
    const none = await accuracy();
    expect(none).toBeGreaterThan(greedy + 0.2);
    await page.getByRole("button", { name: "1, as trained" }).click();
    await page.waitForSelector("input[aria-label='Rank that is kept']:not([disabled])");
    await page.getByLabel("Rank that is kept").fill("1");
    await waitUntil(page, `/rank 1$/m.test(document.querySelector(".facts").innerText)`);
    expect(await page.locator(".facts").innerText()).toContain("6,794 numbers");
    await page.getByLabel(/^Digit 9, with replay|^Digit \d, with replay/).check();
    await waitUntil(page, `/ranks add up to/.test(document.querySelector("#understand").innerText)`);
    expect(complaints).toEqual([]);
  });

  it("opens an adapter that PEFT wrote, as files and as a zip, and reads as Node.js does with it", async () => {
    const { page, complaints } = await enter({ hash: "#d=k7" });
    const files = {
      "adapter_config.json": new Uint8Array(readFileSync(join(peft, "adapter_config.json"))),
      "adapter_model.safetensors": new Uint8Array(readFileSync(join(peft, "adapter_model.safetensors"))),
    };
    const base = readModel(readFileSync(join(folder, "site", "base.onnx")));
    const expected = await logitsInNode(base, await seenPixels(page), readAdapter(files));
    await give(page, "Open an adapter", files);
    await page.waitForSelector(".notice.info");
    await settled(page);
    expect(largestDifference(await logits(page, "adapted"), expected)).toBeLessThan(tolerance);
    await page.getByRole("switch", { name: "Adapter" }).uncheck();
    await give(page, "Open an adapter", {
      "by-peft.zip": zipSync({ "run/a": files["adapter_config.json"], ...prefixed("run/", files) }),
    });
    await waitUntil(page, `/by-peft: rank/.test(document.querySelector(".notices").textContent)`);
    await settled(page);
    expect(largestDifference(await logits(page, "adapted"), expected)).toBeLessThan(tolerance);
    expect(complaints).toEqual([]);
  });

  it("refuses hostile files with a message, and goes on", async () => {
    const { page, complaints } = await enter();
    const before = await logits(page, "adapted");
    const good = {
      config: new Uint8Array(readFileSync(join(peft, "adapter_config.json"))),
      weights: new Uint8Array(readFileSync(join(peft, "adapter_model.safetensors"))),
    };
    const hostile: [files: Record<string, Uint8Array>, message: RegExp][] = [
      [{ "adapter.zip": new Uint8Array([80, 75, 3, 4, 9, 9, 9]) }, /adapter\.zip: expected a zip/],
      [{ "a.onnx_adapter": new Uint8Array(64) }, /a\.onnx_adapter/],
      [{ "notes.txt": new Uint8Array(3) }, /notes\.txt: expected a zip/],
      [{ "adapter_config.json": good.config }, /adapter_model\.safetensors: expected this file/],
      [
        { "adapter_config.json": good.config, "adapter_model.safetensors": good.weights.subarray(0, 5000) },
        /adapter_model\.safetensors/,
      ],
      [otherShape(good.config), /fc1.*expected/s],
      [withNaN(good), /expected finite values, got NaN/],
    ];
    for (const [files, message] of hostile) {
      await give(page, "Open an adapter", files);
      await page.waitForSelector(".notice.error");
      expect(await page.locator(".notice.error").innerText()).toMatch(message);
      await page.getByRole("button", { name: "Close this message" }).click();
      await page.waitForSelector(".notice", { state: "detached" });
    }
    await give(page, "Open an ONNX model", { "bad.onnx": new Uint8Array([255, 255, 255, 255, 1, 2]) });
    await page.waitForSelector("#model .fault");
    expect(await page.locator("#model .fault").innerText()).toContain("bad.onnx");
    await settled(page);
    expect(await logits(page, "adapted")).toEqual(before);
    expect(complaints).toEqual([]);
  });

  it("says of any model what can be adapted, and whether that can be trained", async () => {
    const { page, complaints } = await enter();
    const golden = join(root, "test", "fixtures", "golden", "cnn", "model.onnx");
    await give(page, "Open an ONNX model", { "cnn.onnx": new Uint8Array(readFileSync(golden)) });
    await page.waitForSelector("[data-trainable=true]");
    expect(await page.locator(".verdict").innerText()).toMatch(/Trainable: [\d,]+ parameters in \d+ layers?,/);
    await page.getByLabel("Target modules").fill("nothing");
    await page.getByLabel("Target modules").blur();
    await page.waitForSelector("[data-trainable=false]");
    expect(await page.locator(".faults").innerText()).toContain("nothing");
    await give(page, "Open an ONNX model", { "stft.onnx": untrainable() });
    await page.getByLabel("Target modules").fill("all-linear");
    await page.getByLabel("Target modules").blur();
    await waitUntil(page, `/NonMaxSuppression|Det/.test(document.querySelector(".faults")?.innerText ?? "")`);
    expect(complaints).toEqual([]);
  });

  it("takes from a link only what is within its limits, and says what was not", async () => {
    const { page } = await enter({ hash: "#d=k20&rank=900&lr=x&mix=ready:1,ready:2&r=2&steps=60" });
    expect(await page.locator(".notice").innerText()).toContain("mix, rank, lr are out of range");
    expect(await page.getByLabel("Rank r").first().inputValue()).toBe("2");
    expect(await page.getByLabel("Steps", { exact: true }).inputValue()).toBe("60");
    expect(await page.getByLabel("Learning rate").inputValue()).toBe("0.003");
  });

  it("works on one thread where the server does not isolate it", async () => {
    const plain = await servePlayground(join(folder, "site"), { isolated: false });
    try {
      const { page, complaints } = await enter({}, plain.origin);
      expect(await page.evaluate("crossOriginIsolated")).toBe(false);
      expect((await logits(page, "adapted")).length).toBe(10);
      expect(await page.locator(".foot").innerText()).toContain("1 thread");
      expect(complaints).toEqual([]);
    } finally {
      await plain.close();
    }
  });

  for (const width of [390, 1360]) {
    it(`breaks no rule of axe and fits its window, light and dark, ${width} wide`, async () => {
      const { page, complaints } = await enter({ colorScheme: "light", viewport: { width, height: 900 } });
      await page.getByRole("button", { name: /Take 20 misread/ }).click();
      await page.waitForSelector(".price tr.adapted");
      await page.waitForSelector(".chart canvas");
      const golden = join(root, "test", "fixtures", "golden", "mlp", "model.onnx");
      await give(page, "Open an ONNX model", { "mlp.onnx": new Uint8Array(readFileSync(golden)) });
      await page.waitForSelector(".verdict");
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        await page.waitForTimeout(300);
        expect(await violations(page), colorScheme).toEqual([]);
        expect(await stickingOut(page)).toEqual([]);
        const picture = await page.screenshot({ path: join(folder, `${colorScheme}-${width}.png`), fullPage: true });
        expect(picture.length).toBeGreaterThan(20_000);
      }
      expect(complaints).toEqual([]);
    });
  }

  testByHand(enter, folder);
});

function prefixed(prefix: string, files: Readonly<Record<string, Uint8Array>>): Record<string, Uint8Array> {
  return Object.fromEntries(Object.entries(files).map(([name, bytes]) => [prefix + name, bytes]));
}

/** An adapter for a network of other sizes. */
function otherShape(config: Uint8Array): Record<string, Uint8Array> {
  const read = readAdapter({
    "adapter_config.json": config,
    "adapter_model.safetensors": new Uint8Array(readFileSync(join(peft, "adapter_model.safetensors"))),
  });
  const tensors = new Map(
    [...read.tensors].map(([key, { dims }]) => {
      const other = dims.map((size) => (size > 100 ? 50 : size));
      return [
        key,
        tensor("float32", other, new Float32Array(other.reduce((product, size) => product * size, 1))),
      ] as const;
    }),
  );
  return Object.fromEntries(writeAdapter({ ...read, tensors }));
}

function withNaN({ config, weights }: { config: Uint8Array; weights: Uint8Array }): Record<string, Uint8Array> {
  const bytes = weights.slice();
  bytes.set([0, 0, 0xc0, 0x7f], bytes.length - 4);
  return { "adapter_config.json": config, "adapter_model.safetensors": bytes };
}

/** A layer below an operator that no gradient goes through. */
function untrainable(): Uint8Array {
  const g = graphBuilder({ opset: 18 });
  const weight = g.initializer("fc.weight", tensor("float32", [4, 4], new Float32Array(16).fill(0.1)));
  const hidden = g.op("Gemm", [g.input("x", "float32", [4, 4]), weight], { transB: 1 }, { name: "/fc/Gemm" });
  g.output(g.op("Det", [hidden]), "float32", []);
  return writeModel(createModel(g.build(), { opset: 18 }));
}
