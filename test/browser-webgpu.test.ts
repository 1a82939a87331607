// WebGPU in a real browser, on its own adapter in software: PyTorch's gradients, and some steps of training that agree with
// WebAssembly. Without a Chromium, or with one that gives no adapter, it is skipped, and says so.
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type SiteServer, serveCheckout, startBrowser } from "./support/browser.ts";
import { loadGolden } from "./support/golden.ts";
import { type DeviceResult, deviceJourney, type GoldenResult } from "./support/journey.ts";
import { largestDifference } from "./support/onnx.ts";

/** Shaders are compiled for a processor here. */
const patience = 180_000;

/** Sums in other orders; 20 steps of Adam carry that on. */
const acrossDevices = 1e-4;

describe("WebGPU in a browser", { timeout: patience }, () => {
  let server: SiteServer;
  let browser: Browser | string = "not started";
  let page: Page;

  beforeAll(async () => {
    server = await serveCheckout();
    browser = await startBrowser({ webgpu: true });
    if (typeof browser === "string") process.stderr.write(`WebGPU was not tested in a browser: ${browser}\n`);
  });

  afterAll(async () => {
    if (typeof browser !== "string") await browser.close();
    await server.close();
  });

  beforeEach(async (context) => {
    if (typeof browser === "string") return context.skip(browser);
    page = await browser.newPage();
    await page.goto(server.origin);
    const adapter = "globalThis.navigator.gpu?.requestAdapter().then((adapter) => adapter !== null) ?? false";
    if (!(await page.evaluate<boolean>(adapter))) return context.skip("this browser gives no WebGPU adapter");
    return () => page.close();
  });

  /** Calls a function of journey.ts in the page; `argument` is JavaScript. */
  const inPage = <T>(name: string, argument: string): Promise<T> =>
    page.evaluate<T>(`import("/test/support/journey.ts").then((journey) => journey.${name}(${argument}))`);

  it("gives PyTorch's loss and gradients", async () => {
    const { tolerance } = await loadGolden();
    const read = `(name) => fetch("/test/fixtures/golden/mlp/" + name).then((r) => r.arrayBuffer()).then((b) => new Uint8Array(b))`;
    const { loss, expectedLoss, gradients } = await inPage<GoldenResult>(
      "goldenGradients",
      `${read}, { device: "webgpu" }`,
    );
    const isClose = (a: number, b: number): boolean =>
      Math.abs(a - b) <= tolerance.absolute + tolerance.relative * Math.abs(b);
    expect(isClose(loss, expectedLoss), `loss ${loss}, PyTorch has ${expectedLoss}`).toBe(true);
    expect(gradients).toHaveLength(6);
    for (const { key, ours, expected } of gradients) {
      expect(ours).toHaveLength(expected.length);
      expect(
        ours.findIndex((value, index) => !isClose(value, expected[index]!)),
        key,
      ).toBe(-1);
    }
  });

  it("trains and runs with adapters as WebAssembly does, and Node.js", async () => {
    const there = await inPage<DeviceResult>("deviceJourney", `{ device: "webgpu" }`);
    const here = await inPage<DeviceResult>("deviceJourney", `{ device: "wasm" }`);
    expect(there.losses).toHaveLength(20);
    expect(there.losses.at(-1)).toBeLessThan(there.losses[0]! * 0.8);
    expect(largestDifference(there.enabled, there.disabled)).toBeGreaterThan(0.1);
    const inNode = await deviceJourney({ device: "cpu" });
    for (const part of ["losses", "enabled", "disabled", "everyOther"] as const) {
      expect(largestDifference(there[part], here[part]), part).toBeLessThan(acrossDevices);
      expect(largestDifference(there[part], inNode[part]), part).toBeLessThan(acrossDevices);
    }
  });

  it("takes the processor for auto, since the adapter is no GPU", async () => {
    const chosen = await page.evaluate(`import("lowrank").then(({ checkDevice }) => checkDevice({ device: "auto" }))`);
    expect(chosen).toEqual({ device: "wasm", reason: "WebGPU's adapter is no GPU" });
  });
});
