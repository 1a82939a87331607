// npm run screenshots: docs/images/playground-*.png, from the real page: its main states, light and dark, wide and on a phone.
// Needs a Chromium (CHROME_PATH, or the usual places); the pictures are made small by sharp.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import sharp from "sharp";
import { buildPlayground } from "./playground/build.js";
import { servePlayground } from "./playground/serve.js";

const images = join(dirname(fileURLToPath(import.meta.url)), "..", "docs", "images");
const usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const executablePath = process.env.CHROME_PATH ?? usual.find((path) => existsSync(path)) ?? chromium.executablePath();

const wide = { width: 1360, height: 860 };
const phone = { width: 390, height: 844 };

/** What each picture shows, and how to come there. */
const shots = [
  { name: "first-sight", viewport: wide, colorScheme: "light", act: async () => undefined },
  { name: "first-sight-dark", viewport: wide, colorScheme: "dark", act: async () => undefined },
  { name: "phone", viewport: phone, colorScheme: "light", act: async () => undefined },
  { name: "phone-dark", viewport: phone, colorScheme: "dark", act: async () => undefined },
  { name: "teach", viewport: wide, colorScheme: "light", act: teach, at: "#teach" },
  {
    name: "understand",
    viewport: wide,
    colorScheme: "dark",
    hash: "#mix=greedy:1",
    act: understand,
    at: "#understand",
  },
];

async function teach(page) {
  await page.getByRole("button", { name: /Take 20 misread/ }).click();
  await page.getByText("Settings", { exact: false }).first().click();
  await page.getByRole("button", { name: "Train", exact: true }).click();
  await page.waitForSelector("[data-run=done]");
}

async function understand(page) {
  await page.waitForSelector(".price tr.adapted .worse");
  await page.waitForSelector("#understand .chart canvas");
}

const { origin, close } = await servePlayground(await buildPlayground({ tell: (line) => console.error(line) }));
const args = process.getuid?.() === 0 ? ["--no-sandbox", "--disable-gpu"] : ["--disable-gpu"];
const browser = await chromium.launch({ executablePath, args });
try {
  mkdirSync(images, { recursive: true });
  for (const { name, viewport, colorScheme, hash = "", act, at } of shots) {
    const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
    const page = await context.newPage();
    page.setDefaultTimeout(180_000);
    await page.goto(`${origin}/${hash}`);
    await page.waitForSelector("html[data-state=ready]");
    await page.waitForSelector(".equation .matrix");
    await act(page);
    if (at !== undefined) await page.locator(at).evaluate((panel) => panel.scrollIntoView());
    await page.waitForTimeout(1500);
    const picture = await sharp(await page.screenshot())
      .png({ palette: true, quality: 80, effort: 10 })
      .toBuffer();
    writeFileSync(join(images, `playground-${name}.png`), picture);
    console.log(`docs/images/playground-${name}.png, ${picture.length} bytes`);
    await context.close();
  }
} finally {
  await browser.close();
  await close();
}
