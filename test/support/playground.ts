// The playground, built and served for its tests, and what people do on it: draw, press, drop, save.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import { type Adapter, attachLora, createSession, type Model, tensor } from "lowrank";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { root } from "./folders.ts";

interface Built {
  buildPlayground(options: { outDir: string; tell?: (line: string) => void }): Promise<string>;
}

export interface Served {
  readonly origin: string;
  close(): Promise<void>;
}

interface Server {
  servePlayground(folder: string, options?: { port?: number; isolated?: boolean }): Promise<Served>;
}

const script = (name: string): string => pathToFileURL(join(root, "scripts", "playground", name)).href;

/** Builds the page into a folder; its base is trained once for each checkout. */
export async function buildPlayground(outDir: string): Promise<string> {
  const { buildPlayground: build } = (await import(script("build.js"))) as Built;
  return build({ outDir });
}

export async function servePlayground(folder: string, options: { isolated?: boolean } = {}): Promise<Served> {
  const { servePlayground: serve } = (await import(script("serve.js"))) as Server;
  return serve(folder, options);
}

/** A page of the playground, and what it should not have done. */
export interface Visit {
  readonly page: Page;
  /** Errors on the console, breaches of its policy, failed requests, and requests to anywhere but its server. */
  readonly complaints: string[];
  close(): Promise<void>;
}

/** Opens the page and waits until it answers. */
export async function visit(
  browser: Browser,
  origin: string,
  { hash = "", ...options }: BrowserContextOptions & { hash?: string } = {},
): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith(`blob:${origin}/`)) complaints.push(`elsewhere: ${url}`);
  });
  await page.goto(`${origin}/${hash}`);
  await ready(page);
  return { page, complaints, close: () => context.close() };
}

/** Waits until the page has its base and its adapters, and has read what is on the board. */
export async function ready(page: Page): Promise<void> {
  await page.waitForSelector("html[data-state=ready]");
  await settled(page);
}

/** Waits until what is shown belongs to what is on the board: three looks in a row, 60 ms apart, find the same logits. */
export async function settled(page: Page): Promise<void> {
  let [before, same] = ["", 0];
  for (let look = 0; look < 200 && same < 3; look++) {
    const now = JSON.stringify(await logits(page, "adapted"));
    // Nothing is shown while the answer belongs to the adapter before.
    same = now === before && now !== "[]" ? same + 1 : 0;
    before = now;
    await page.waitForTimeout(60);
  }
}

/** Waits until an expression is true in the page: Playwright's own wait would need `unsafe-eval`. */
export async function waitUntil(page: Page, expression: string): Promise<void> {
  for (let look = 0; look < 600; look++) {
    if (await page.evaluate<boolean>(expression)) return;
    await page.waitForTimeout(50);
  }
  throw new Error(`waited 30 s in vain for ${expression}`);
}

/** The ten logits that the bars show, of the base or the adapted model; empty where there are none. */
export function logits(page: Page, kind: "base" | "adapted"): Promise<number[]> {
  return page.$$eval(`.bar.${kind}[data-logit]`, (bars) =>
    bars.map((bar) => Number((bar as unknown as { dataset: Record<string, string> }).dataset.logit)),
  );
}

/** What the adapted model reads: the class of the best bar. */
export function reading(page: Page): Promise<string> {
  return page.locator(".bar-table tr.best th").last().innerText();
}

/** The digit as the network gets it, 784 bytes, from the small picture of it. */
export async function seenPixels(page: Page): Promise<Uint8Array> {
  const bytes = await page.evaluate<number[]>(
    `(() => { const canvas = document.querySelector(".seen-digit");
      const data = canvas.getContext("2d").getImageData(0, 0, 28, 28).data;
      return Array.from({ length: 784 }, (_, at) => data[4 * at + 3]); })()`,
  );
  return Uint8Array.from(bytes);
}

/** Draws with the mouse; points are shares of the board, 0 to 1. */
export async function drawByMouse(
  page: Page,
  strokes: readonly (readonly (readonly [number, number])[])[],
): Promise<void> {
  const box = (await page.locator(".canvas").boundingBox())!;
  for (const stroke of strokes) {
    for (const [index, [x, y]] of stroke.entries()) {
      await page.mouse.move(box.x + x * box.width, box.y + y * box.height, { steps: index === 0 ? 1 : 8 });
      if (index === 0) await page.mouse.down();
    }
    await page.mouse.up();
  }
}

/** Presses keys on the board: `moves` are arrows and how often. */
export async function drawByKeys(page: Page, moves: readonly (readonly [key: string, times: number])[]): Promise<void> {
  await page.locator(".canvas").focus();
  for (const [key, times] of moves) for (let press = 0; press < times; press++) await page.keyboard.press(key);
}

/** Presses a button of Take home; the bytes of the file that the browser saves. */
export async function saved(page: Page, title: string): Promise<Uint8Array> {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: new RegExp(`^${title}`) }).click(),
  ]);
  return new Uint8Array(readFileSync(await download.path()));
}

/** Gives files to one of the places that take them. */
export async function give(page: Page, label: string, files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const payload = Object.entries(files).map(([name, bytes]) => ({
    name,
    mimeType: "application/octet-stream",
    buffer: Buffer.from(bytes),
  }));
  await page.getByLabel(label).setInputFiles(payload);
}

/** Drops files on what the selector finds, as a hand with a mouse does. */
export async function drop(page: Page, selector: string, files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const list = Object.entries(files).map(([name, bytes]) => ({ name, text: Buffer.from(bytes).toString("base64") }));
  const transfer = await page.evaluateHandle(
    `(() => { const transfer = new DataTransfer();
      for (const { name, text } of ${JSON.stringify(list)}) {
        transfer.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name));
      }
      return transfer; })()`,
  );
  await page.dispatchEvent(selector, "dragover", { dataTransfer: transfer });
  await page.dispatchEvent(selector, "drop", { dataTransfer: transfer });
}

/** What the page's digit gives in Node.js: logits [10]. Without `adapter`, the model is run as it is. */
export async function logitsInNode(model: Model, pixels: Uint8Array, adapter?: Adapter | null): Promise<number[]> {
  const x = tensor(
    "float32",
    [1, 784],
    Float32Array.from(pixels, (byte) => (byte / 255 - 0.1307) / 0.3081),
  );
  const session = await createSession(
    adapter === undefined ? model : attachLora(model, { targetModules: ["fc1", "fc2", "fc3"] }),
  );
  const [output] = (await session.run({ x }, { adapter: adapter ?? null })).values();
  await session.dispose();
  return [...(output!.data as Float32Array)];
}

/** Trains, and waits until it is done. Returns what the page says of it. */
export async function train(page: Page): Promise<string> {
  await page.getByRole("button", { name: "Train", exact: true }).click();
  await page.waitForSelector("[data-run=done]");
  await settled(page);
  return page.locator("[data-run]").innerText();
}

/** What axe finds against WCAG 2.2 A and AA and its own best practices, as lines. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  const found = await page.evaluate<{ id: string; nodes: { target: string[]; failureSummary: string }[] }[]>(
    `axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })
      .then(({ violations }) => violations.map(({ id, nodes }) =>
        ({ id, nodes: nodes.map(({ target, failureSummary }) => ({ target: target.map(String), failureSummary })) })))`,
  );
  return found.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target.join(" ")}: ${failureSummary}`),
  );
}

/** What reaches past the window's right edge, but for what lies in something that scrolls by itself; empty when nothing does. */
export function stickingOut(page: Page): Promise<string[]> {
  return page.evaluate<string[]>(`(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const scrolls = (element) => element !== document.body && /auto|scroll|hidden/.test(getComputedStyle(element).overflowX);
    const isInside = (element) => element !== null && (scrolls(element) || isInside(element.parentElement));
    return [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > width + 1 && !isInside(element.parentElement))
      .map((element) => element.tagName + "." + element.getAttribute("class") + " reaches " + element.getBoundingClientRect().right);
  })()`);
}
