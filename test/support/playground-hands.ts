// What people do on the playground with their hands and files: touch, pens, pictures, drops, the tour, a reload at a bad moment, and
// the program that it gives away, run as it is in Node.js. They are part of the playground's journey (playground.test.ts): two browsers
// that train at a time would wait for each other.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import { type Adapter, readAdapter, readModel, readSafetensors } from "lowrank";
import type { Page } from "playwright-core";
import sharp from "sharp";
import ts from "typescript";
import { expect, it } from "vitest";
import { root } from "./folders.ts";
import { largestDifference } from "./onnx.ts";
import {
  drawByMouse,
  drop,
  give,
  logits,
  logitsInNode,
  reading,
  ready,
  saved,
  seenPixels,
  settled,
  train,
  type Visit,
  type visit,
  waitUntil,
} from "./playground.ts";

const peft = join(root, "test", "fixtures", "playground", "peft");

/** A one: from the top to the bottom, a little aslant. */
const one: readonly (readonly [number, number])[] = [
  [0.55, 0.15],
  [0.5, 0.5],
  [0.45, 0.85],
];

/** Opens the page; it is closed behind each test. */
export type Enter = (options?: Parameters<typeof visit>[2]) => Promise<Visit>;

/** Registers the tests. `enter` opens the page, which was built into `folder`/site. */
export function testByHand(enter: Enter, folder: string): void {
  for (const pointerType of ["touch", "pen"] as const) {
    it(`reads a digit drawn by ${pointerType}`, async () => {
      const { page, complaints } = await enter({ hasTouch: true });
      await page.getByRole("button", { name: "Clear" }).click();
      await drawByPointer(page, pointerType);
      await settled(page);
      expect(await reading(page)).toBe("1");
      expect(complaints).toEqual([]);
    });
  }

  it("reads a digit from a picture, and says what to do with a file that is none", async () => {
    const { page, complaints } = await enter();
    const photo = await sharp(
      Buffer.from(
        `<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200"><rect width="300" height="200" fill="#f4efe2"/><path d="M90 40 H150 L115 165" stroke="#24303f" stroke-width="13" fill="none"/></svg>`,
      ),
    )
      .jpeg()
      .toBuffer();
    await give(page, "Open picture", { "seven.jpg": photo });
    await waitUntil(page, `/d=p/.test(location.hash)`);
    await settled(page);
    expect(await reading(page)).toBe("7");
    for (const bytes of [new Uint8Array(0), Uint8Array.from({ length: 900 }, (_, at) => (at * 37) & 255)]) {
      await give(page, "Open picture", { "no.png": bytes });
      await page.waitForSelector(".notice.error");
      expect(await page.locator(".notice.error").innerText()).toContain("This file is no picture");
      await page.getByRole("button", { name: "Close this message" }).click();
      await page.waitForSelector(".notice", { state: "detached" });
    }
    expect(complaints).toEqual([]);
  });

  it("shows the numbers of a place of the matrices, and of the digit there", async () => {
    const { page, complaints } = await enter();
    const text = async (): Promise<string> => page.locator("#see .formula").innerText();
    await waitUntil(page, `/Row \\d+, column/.test(document.querySelector("#see .formula")?.innerText ?? "")`);
    const base = readModel(readFileSync(join(folder, "site", "base.onnx")));
    const adapter = readyAdapter();
    for (const [row, column] of [
      [17, 400],
      [999, 0],
    ] as const) {
      await page.getByLabel("Row of the matrices").fill(String(row));
      await page.getByLabel("Column of the matrices").fill(String(column));
      await waitUntil(
        page,
        `document.querySelector("#see .formula").innerText.includes("Row ${row}, column ${column}:")`,
      );
      const [, w, sum] = /column \d+: ([−\d.]+) \+ .* = ([−\d.]+)\./.exec(await text())!;
      const codes = base.graph.initializers.get("fc1.weight_quantized")!.bytes;
      const scales = base.graph.initializers.get("fc1.weight_scale")!.bytes;
      const weight =
        new Int8Array(codes.slice().buffer)[row * 784 + column]! * new Float32Array(scales.slice().buffer)[row]!;
      const [a, b] = ["A", "B"].map((name) => adapter.tensors.get(`base_model.model.fc1.lora_${name}.weight`)!.data);
      const update =
        2 *
        [0, 1, 2, 3].reduce((total, rank) => total + Number(b![row * 4 + rank]) * Number(a![rank * 784 + column]), 0);
      expect(numberOf(w!)).toBeCloseTo(weight, 4);
      expect(numberOf(sum!)).toBeCloseTo(weight + update, 3);
    }
    await page.getByRole("button", { name: "Where it does most" }).click();
    await waitUntil(page, `!document.querySelector("#see .formula").innerText.includes("Row 999")`);
    expect(await text()).toMatch(/On this digit: pixel \d+, \d+ is [−\d.]+ there; all inputs together give unit \d+/);
    expect(complaints).toEqual([]);
  });

  it("takes one stop of the Tab key for all test digits, which arrows go through", async () => {
    const { page, complaints } = await enter();
    expect(await page.locator(".gallery [tabindex='0']").count()).toBe(1);
    await page.locator(".gallery [tabindex='0']").focus();
    for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft", "Enter"]) await page.keyboard.press(key);
    await waitUntil(page, `/d=m1(&|$)/.test(location.hash)`);
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    await waitUntil(page, `/d=k\\d+/.test(location.hash)`);
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.getAttribute('role')")).toBe("switch");
    expect(complaints).toEqual([]);
  });

  it("leads through in five steps that each do something", async () => {
    const { page, complaints } = await enter();
    const tour = page.getByRole("navigation", { name: "Two minutes" });
    await tour.getByRole("button", { name: "Switch the adapter off" }).click();
    await settled(page);
    expect(await logits(page, "adapted")).toEqual(await logits(page, "base"));
    await tour.getByRole("button", { name: "Switch the adapter on" }).click();
    await tour.getByRole("button", { name: "Draw a digit of your own" }).click();
    expect(await page.locator(".canvas-hint").innerText()).toContain("Draw here");
    await tour.getByRole("button", { name: /Let it learn 20/ }).click();
    await page.waitForSelector("[data-run=done]");
    expect(await page.getByRole("heading", { name: "20 examples" }).count()).toBe(1);
    await tour.getByRole("button", { name: /See what the others pay/ }).click();
    await page.waitForSelector(".price tr.adapted .worse");
    expect(await page.evaluate("document.activeElement.id")).toBe("pay-title");
    await tour.getByRole("button", { name: "Take it home" }).click();
    expect(await page.evaluate("document.activeElement.id")).toBe("home-title");
    expect(complaints).toEqual([]);
  });

  it("goes on with a run in whose middle the page was loaded anew", async () => {
    const { page, complaints } = await enter({ hash: "#steps=2000" });
    await page.getByRole("button", { name: /Take 20 misread/ }).click();
    await page.getByRole("button", { name: "Train", exact: true }).click();
    await waitUntil(page, keptRunIsStopped);
    await page.reload();
    await ready(page);
    const said = await page.locator("[data-run]").innerText();
    const step = Number(/Stopped after (\d+) steps/.exec(said)![1]);
    expect(step).toBeGreaterThan(0);
    expect(step).toBeLessThan(2000);
    await page.getByRole("button", { name: `Resume from step ${step}` }).click();
    await waitUntil(
      page,
      `Number(/Step (\\d+)/.exec(document.querySelector("[data-run]").textContent)?.[1]) > ${step}`,
    );
    await page.getByRole("button", { name: "Stop" }).click();
    await page.waitForSelector("[data-run=stopped]");
    expect(complaints).toEqual([]);
  });

  it("gives away a program that trains the same adapter in Node.js", async () => {
    const { page, complaints } = await enter({ hash: "#r=2&alpha=4&steps=20&replay=0.5" });
    await page.getByRole("button", { name: /Take 20 misread/ }).click();
    await train(page);
    const digits = await runProgram(page, folder, "digits");
    expect(digits.said).toMatch(/^(19|20) of 20 examples are read right$/m);
    expect(digits.adapter.config).toMatchObject({ r: 2, loraAlpha: 4, targetModules: ["fc1", "fc2", "fc3"] });
    const here = await logits(page, "adapted");
    const there = await logitsInNode(digits.base, await seenPixels(page), digits.adapter);
    // Two builds of the runtime round differently, and each step builds on the last.
    expect(largestDifference(there, here)).toBeLessThan(0.05);
    expect(complaints).toEqual([]);
  });

  it("gives away a program that trains the same symbols in Node.js", async () => {
    const { page, complaints } = await enter({ hash: "#mode=symbols&steps=20" });
    for (const [name, points] of Object.entries(symbols)) {
      await page.getByRole("button", { name: "Clear" }).click();
      await drawByMouse(page, [points]);
      await page.getByRole("button", { name: `Add as ${name}` }).click();
    }
    await train(page);
    const own = await runProgram(page, folder, "symbols");
    expect(own.said).toMatch(/^3 of 3 examples are read right$/m);
    expect(own.adapter.labels).toEqual(["star", "heart", "arrow"]);
    expect(complaints).toEqual([]);
  });

  it("keeps examples as a file and adds them again, and refuses what is none", async () => {
    const { page, complaints } = await enter();
    await page.getByRole("button", { name: /Take 20 misread/ }).click();
    const file = await saved(page, "Save the examples");
    const { tensors } = readSafetensors(file, "examples.safetensors");
    expect(tensors.get("own.images")!.dims).toEqual([20, 784]);
    await page.getByRole("button", { name: "Remove all" }).click();
    await give(page, "Open examples", { "examples.safetensors": file });
    await page.getByRole("heading", { name: "20 examples" }).waitFor();
    await page.getByRole("button", { name: "Close this message" }).click();
    for (const bytes of [
      new Uint8Array(0),
      file.subarray(0, 1000),
      readFileSync(join(peft, "adapter_model.safetensors")),
    ]) {
      await give(page, "Open examples", { "other.safetensors": bytes });
      await page.waitForSelector(".notice.error");
      expect(await page.locator(".notice.error").innerText()).toContain("other.safetensors");
      await page.getByRole("button", { name: "Close this message" }).click();
      await page.waitForSelector(".notice", { state: "detached" });
    }
    expect(await page.getByRole("heading", { name: "20 examples" }).count()).toBe(1);
    expect(complaints).toEqual([]);
  });

  it("takes an adapter and a model that are dropped, keeps both over a reload, and says where files miss", async () => {
    const { page, complaints } = await enter({ hash: "#d=k7" });
    const files = Object.fromEntries(
      ["adapter_config.json", "adapter_model.safetensors"].map((name) => [name, readFileSync(join(peft, name))]),
    );
    await drop(page, "body", { "README.md": Buffer.from("# an adapter") });
    await page.waitForSelector(".notice.info");
    expect(await page.locator(".notice").innerText()).toContain("Drop files on one of the marked places");
    await drop(page, "#home .dropzone", { ...files, "README.md": Buffer.from("# an adapter") });
    await waitUntil(page, `/rank \\d+, on fc1/.test(document.querySelector(".notices").textContent)`);
    await settled(page);
    const expected = await logitsInNode(
      readModel(readFileSync(join(folder, "site", "base.onnx"))),
      await seenPixels(page),
      readAdapter(files),
    );
    expect(largestDifference(await logits(page, "adapted"), expected)).toBeLessThan(1e-4);
    const golden = readFileSync(join(root, "test", "fixtures", "golden", "mlp", "model.onnx"));
    await drop(page, "#model .dropzone", { "mlp.onnx": golden });
    await page.waitForSelector("[data-trainable=true]");
    await page.locator("#model").getByLabel("Rank r").fill("3");
    await page.locator("#model").getByLabel("Rank r").blur();
    await page.waitForTimeout(400);
    const verdict = await page.locator(".verdict").innerText();
    await page.reload();
    await ready(page);
    await page.waitForSelector("[data-trainable=true]");
    expect(await page.locator(".verdict").innerText()).toBe(verdict);
    expect(largestDifference(await logits(page, "adapted"), expected)).toBeLessThan(1e-4);
    expect(complaints).toEqual([]);
  });

  it("checks a link that is pasted into the open page, too", async () => {
    const { page } = await enter();
    await page.evaluate(`location.hash = "d=k3&strength=99&mix=stranger:1"`);
    await waitUntil(
      page,
      `/does not|not in this browser|out of range/.test(document.querySelector(".notices").textContent)`,
    );
    expect(await page.getByLabel("Strength of the adapter").inputValue()).toBe("1");
    await settled(page);
    expect((await logits(page, "adapted")).length).toBe(10);
    await page.evaluate(`location.hash = "d=m9999"`);
    await waitUntil(page, `/d is out of range/.test(document.querySelector(".notices").textContent)`);
    await settled(page);
    expect(await page.locator(".thumb[aria-pressed=true]").count()).toBe(1);
  });

  function readyAdapter(): Adapter {
    const names = ["adapter_config.json", "adapter_model.safetensors"];
    return readAdapter(
      Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, "site", `ready-${name}`))])),
    );
  }
}

const symbols: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
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

/** An expression: whether a run is kept that a reload would find stopped. */
const keptRunIsStopped = `new Promise((resolve) => {
  const request = indexedDB.open("lowrank-playground", 1);
  request.onsuccess = () => {
    const found = request.result.transaction("state").objectStore("state").get("run");
    found.onsuccess = () => { request.result.close(); resolve(found.result?.run.state === "stopped"); };
  };
})`;

function numberOf(text: string): number {
  return Number(text.replace("−", "-"));
}

/** Fingers and pens send the same events as mice, with another type. */
async function drawByPointer(page: Page, pointerType: "touch" | "pen"): Promise<void> {
  const box = (await page.locator(".canvas").boundingBox())!;
  const points = one.map(([x, y]) => ({ x: box.x + x * box.width, y: box.y + y * box.height }));
  const session = await page.context().newCDPSession(page);
  if (pointerType === "touch") {
    const send = (type: "touchStart" | "touchMove" | "touchEnd", touchPoints: readonly { x: number; y: number }[]) =>
      session.send("Input.dispatchTouchEvent", { type, touchPoints: [...touchPoints] });
    await send("touchStart", points.slice(0, 1));
    for (const point of points.slice(1)) await send("touchMove", [point]);
    await send("touchEnd", []);
    return;
  }
  const send = (type: "mousePressed" | "mouseMoved" | "mouseReleased", point: { x: number; y: number }) =>
    session.send("Input.dispatchMouseEvent", {
      type,
      ...point,
      button: "left",
      buttons: 1,
      clickCount: 1,
      pointerType,
    });
  await send("mousePressed", points[0]!);
  for (const point of points.slice(1)) await send("mouseMoved", point);
  await send("mouseReleased", points.at(-1)!);
}

/** Saves the page's program and the files that it reads, checks its types, and runs it as it is. */
async function runProgram(page: Page, folder: string, name: string) {
  const here = join(folder, name);
  mkdirSync(join(here, "node_modules"), { recursive: true });
  symlinkSync(root, join(here, "node_modules", "lowrank"), "junction");
  symlinkSync(join(root, "node_modules", "@types"), join(here, "node_modules", "@types"), "junction");
  writeFileSync(join(here, "base.onnx"), await saved(page, "The base"));
  writeFileSync(join(here, "examples.safetensors"), await saved(page, "examples.safetensors"));
  const text = await page.locator(".snippet code").innerText();
  writeFileSync(join(here, "program.mts"), text);
  writeFileSync(join(here, "program.mjs"), text);
  expect(typeFaults(join(here, "program.mts"))).toEqual([]);
  const said = execFileSync(process.execPath, ["program.mjs"], { cwd: here, encoding: "utf8" });
  const files = ["adapter_config.json", "adapter_model.safetensors", "labels.json"].flatMap((file) => {
    try {
      return [[file, new Uint8Array(readFileSync(join(here, file)))] as const];
    } catch {
      return [];
    }
  });
  const taken = readAdapter(unzipSync(await saved(page, "Adapter, for PEFT")));
  const adapter = readAdapter(Object.fromEntries(files));
  expect([...adapter.tensors.keys()].sort()).toEqual([...taken.tensors.keys()].sort());
  return { said, adapter, base: readModel(readFileSync(join(here, "base.onnx"))) };
}

/** What TypeScript finds in a file under its strictest settings. */
function typeFaults(path: string): string[] {
  const program = ts.createProgram([path], {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ["node"],
    typeRoots: [join(root, "node_modules", "@types")],
  });
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
}
