// The same code in a real browser: on WebAssembly it gives PyTorch's gradients, and trains, saves, merges and runs to the
// same numbers as in Node.js. Without a Chromium on this machine it is skipped, and says so.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type SiteServer, serveCheckout, startBrowser } from "./support/browser.ts";
import { lowrank } from "./support/command.ts";
import { writeSmallMnist } from "./support/digits.ts";
import { temporaryFolder } from "./support/folders.ts";
import { goldenCases, loadGolden } from "./support/golden.ts";
import {
  type GoldenResult,
  goldenGradients,
  type ResumeResult,
  resumeJourney,
  type ToyResult,
  toyJourney,
} from "./support/journey.ts";
import { largestDifference } from "./support/onnx.ts";

/** MLAS and its WebAssembly build take sums in different orders; 40 steps of Adam carry that on. */
const acrossRuntimes = 1e-5;

const work = temporaryFolder();

describe("in a browser", () => {
  let server: SiteServer;
  let browser: Browser | string = "not started";
  let page: Page;
  /** Errors on the console, uncaught exceptions, failed requests. */
  let complaints: string[];

  beforeAll(async () => {
    server = await serveCheckout();
    browser = await startBrowser();
    if (typeof browser === "string") process.stderr.write(`The browser was not tested: ${browser}\n`);
  });

  afterAll(async () => {
    if (typeof browser !== "string") await browser.close();
    await server.close();
  });

  beforeEach(async (context) => {
    if (typeof browser === "string") return context.skip(browser);
    page = await browser.newPage();
    complaints = [];
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
    page.on("response", (response) => {
      if (response.status() >= 400) complaints.push(`${response.status()}: ${response.url()}`);
    });
    return () => page.close();
  });

  /** Calls a function of journey.ts in the page; `argument` is JavaScript. */
  async function inPage<T>(name: string, argument = ""): Promise<T> {
    await page.goto(server.origin);
    return page.evaluate<T>(`import("/test/support/journey.ts").then((journey) => journey.${name}(${argument}))`);
  }

  it("gives PyTorch's loss and gradients on WebAssembly", async () => {
    const { tolerance } = await loadGolden();
    const close = (actual: number, expected: number): boolean =>
      Math.abs(actual - expected) <= tolerance.absolute + tolerance.relative * Math.abs(expected);
    const folder = "/test/fixtures/golden/mlp/";
    const read = `(name) => fetch("${folder}" + name).then((r) => r.arrayBuffer()).then((b) => new Uint8Array(b))`;
    const inNode = await goldenGradients(async (name) => readFileSync(join(goldenCases, "mlp", name)));
    const inBrowser = await inPage<GoldenResult>("goldenGradients", read);
    for (const { loss, expectedLoss, gradients } of [inNode, inBrowser]) {
      expect(close(loss, expectedLoss), `loss ${loss}, PyTorch has ${expectedLoss}`).toBe(true);
      expect(gradients).toHaveLength(6);
      for (const { key, ours, expected } of gradients) {
        expect(ours).toHaveLength(expected.length);
        expect(Math.max(...expected.map(Math.abs)), key).toBeGreaterThan(0);
        expect(
          ours.findIndex((value, index) => !close(value, expected[index]!)),
          key,
        ).toBe(-1);
      }
    }
    expect(complaints).toEqual([]);
  });

  it("trains, saves, reads back, merges and runs as in Node.js", async () => {
    const inNode = await toyJourney();
    const inBrowser = await inPage<ToyResult>("toyJourney");
    for (const result of [inNode, inBrowser]) {
      expect(result.losses).toHaveLength(40);
      expect(result.losses.at(-1)).toBeLessThan(result.losses[0]! / 2);
      expect(result.accuracy.enabled).toBeGreaterThan(result.accuracy.base);
      expect(result.fileNames).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
      expect(result.readBack).toEqual(result.trained);
      expect(result.disabled).toEqual(result.base);
      expect(largestDifference(result.merged, result.enabled)).toBeLessThan(acrossRuntimes);
      expect(largestDifference(result.enabled, result.base)).toBeGreaterThan(1);
      const classes = result.base.length / 32;
      const expected = result.base.map((value, at) =>
        Math.floor(at / classes) % 2 === 0 ? result.enabled[at]! : value,
      );
      expect(largestDifference(result.everyOther, expected)).toBeLessThan(acrossRuntimes);
    }
    expect(Object.keys(inBrowser.trained)).toEqual(Object.keys(inNode.trained));
    for (const [key, values] of Object.entries(inNode.trained)) {
      expect(largestDifference(inBrowser.trained[key]!, values), key).toBeLessThan(acrossRuntimes);
    }
    for (const part of ["losses", "base", "enabled", "disabled", "merged", "everyOther"] as const) {
      expect(largestDifference(inBrowser[part], inNode[part]), part).toBeLessThan(acrossRuntimes);
    }
    expect(await page.evaluate("crossOriginIsolated")).toBe(true);
    expect(complaints).toEqual([]);
  });

  it("resumes to the same bytes from a checkpoint, with data in memory", async () => {
    const inNode = await resumeJourney();
    const inBrowser = await inPage<ResumeResult>("resumeJourney");
    for (const { whole, resumed, losses, retained } of [inNode, inBrowser]) {
      expect(resumed).toEqual(whole);
      expect(losses).toHaveLength(30);
      expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.75);
      expect(retained).toHaveLength(6);
    }
    for (const part of ["losses", "retained"] as const) {
      expect(largestDifference(inBrowser[part], inNode[part]), part).toBeLessThan(acrossRuntimes);
    }
    expect(complaints).toEqual([]);
  });

  it("opens the study's report, which asks for nothing and breaks no rule of its own policy", async () => {
    writeSmallMnist(join(work, "digits"), { train: 20, test: 12 });
    const args = ["--data", "digits", "--out", "run", "--steps", "3", "--threads", "1", "--quiet"];
    const { code, stderr } = await lowrank(["study", ...args], { cwd: work });
    expect(code, stderr).toBe(0);
    const requests: string[] = [];
    page.on("request", (request) => requests.push(request.url()));
    const address = pathToFileURL(join(work, "run", "report.html")).href;
    await page.goto(address);
    expect(requests.filter((url) => !url.startsWith("data:"))).toEqual([address]);
    expect(complaints).toEqual([]);
    expect(await page.evaluate("document.querySelectorAll('svg').length")).toBeGreaterThan(3);
    // On a phone: nothing sticks out to the right.
    await page.setViewportSize({ width: 360, height: 740 });
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
  });
});
