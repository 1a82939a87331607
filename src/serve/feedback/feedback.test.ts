// Adapters that learn from examples, over HTTP, with the tuning in the same thread.
import { appendFile, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { attachLora } from "../../lora/attach.ts";
import { drawn, twoLayers } from "../../lora/testing/models.ts";
import { loadAdapter } from "../../runs/adapter-files.ts";
import { createSession } from "../../train/infer.ts";
import {
  adapterFor,
  aloneWith,
  distance,
  inferBody,
  makeHome,
  serve,
  type TestServer,
  valuesOf,
} from "../testing/fixture.ts";
import type { Example } from "./examples.ts";
import type { TrainingStatus } from "./trainer.ts";
import { tuneFromExamples } from "./tune-task.ts";

const model = twoLayers();
const start = adapterFor(model, 1, { r: 2, loraAlpha: 2 });
const teacher = adapterFor(model, 2, { r: 2, loraAlpha: 8 });

/** Examples as the teacher labels them; `shift` makes the labels wrong. */
async function examplesOf(count: number, seed: string, shift = 0): Promise<Example[]> {
  const x = drawn(seed, count, 3);
  const session = await createSession(attachLora(model, teacher.config));
  const scores = [...(await session.run({ x }, { adapter: teacher })).values()][0]!.data as Float32Array;
  await session.dispose();
  return Array.from({ length: count }, (_, at) => {
    const row = [...scores.subarray(at * 4, at * 4 + 4)];
    return {
      inputs: { x: [...x.data.subarray(at * 3, at * 3 + 3)] },
      label: (row.indexOf(Math.max(...row)) + shift) % 4,
    };
  });
}

const options = { feedback: true, maxExamples: 1000, tune: tuneFromExamples };

async function trained(server: TestServer, name: string): Promise<TrainingStatus> {
  expect(await server.ask(`/v1/adapters/${name}/train`, {})).toMatchObject({ status: 202, body: { state: "queued" } });
  const status = async (): Promise<TrainingStatus> =>
    (await server.ask(`/v1/adapters/${name}/train`)).body as TrainingStatus;
  await expect.poll(async () => (await status()).state, { timeout: 20_000 }).toMatch(/done|failed/);
  return status();
}

describe("feedback", () => {
  it("makes an adapter better, serves the new version, and goes back", async () => {
    const home = await makeHome({ mine: start });
    const server = await serve(home, options);
    const examples = await examplesOf(400, "lessons");
    const sent = await server.ask("/v1/adapters/mine/examples", { examples });
    expect(sent).toMatchObject({ status: 200, body: { added: 400 } });
    // The same ones again are none.
    expect(await server.ask("/v1/adapters/mine/examples", { examples: examples.slice(0, 50) })).toMatchObject({
      body: { added: 0 },
    });

    const status = await trained(server, "mine");
    expect(status).toMatchObject({ state: "done", outcome: "better", version: "2" });
    expect(status.after!.loss).toBeLessThan(0.7 * status.before!.loss);
    expect(status.after!.accuracy).toBeGreaterThan(status.before!.accuracy!);

    const x = drawn("later", 2, 3);
    const ask = async (): Promise<number[]> => valuesOf((await server.ask("/v2/models/mine/infer", inferBody(x))).body);
    const tuned = await loadAdapter(join(home.adapters, "mine", "2"));
    expect(distance(await ask(), await aloneWith(model, tuned, { x }))).toBeLessThan(1e-4);
    expect(await server.ask("/v1/adapters/mine")).toMatchObject({ body: { versions: ["1", "2"], current: "2" } });

    expect(await server.ask("/v1/adapters/mine/rollback", {})).toMatchObject({ status: 200, body: { current: "1" } });
    expect(distance(await ask(), await aloneWith(model, start, { x }))).toBeLessThan(1e-4);
    expect(await server.ask("/v1/adapters/mine/rollback", {})).toMatchObject({ status: 409 });
    expect(JSON.parse(await readFile(join(home.adapters, "mine", "serving.json"), "utf8"))).toEqual({ version: "1" });
    // The choice outlives the server.
    const next = await serve(home, options);
    expect(await next.ask("/v1/adapters/mine")).toMatchObject({ body: { versions: ["1", "2"], current: "1" } });
  });

  it("serves nothing that is not better on what was held out", async () => {
    const home = await makeHome({ mine: teacher });
    const server = await serve(home, options);
    // The teacher is right about nearly all of these: there is nothing to gain that holds beyond them.
    const noise = (await examplesOf(60, "noise")).map((example, at) => ({ ...example, label: (at * 7) % 4 }));
    await server.ask("/v1/adapters/mine/examples", { examples: noise });
    const status = await trained(server, "mine");
    expect(status.state).toBe("done");
    const { versions, current } = (await server.ask("/v1/adapters/mine")).body as {
      versions: string[];
      current: string;
    };
    if (status.outcome === "worse") expect([versions, current]).toEqual([["1"], "1"]);
    else expect(status.after!.loss).toBeLessThan(status.before!.loss);
    expect((await readdir(join(home.adapters, "mine"))).filter((name) => /^\d+$/.test(name))).toHaveLength(
      versions.length - 1,
    );
  });

  it("keeps a quota, survives a line that was cut off, and forgets on request", async () => {
    const home = await makeHome({ mine: start });
    const server = await serve(home, { ...options, maxExamples: 20 });
    const examples = await examplesOf(21, "quota");
    expect(await server.ask("/v1/adapters/mine/examples", { examples })).toMatchObject({ status: 429 });
    expect(await server.ask("/v1/adapters/mine/examples", { examples: examples.slice(0, 5) })).toMatchObject({
      body: { added: 5 },
    });
    await appendFile(join(home.adapters, "mine", "examples.jsonl"), '{"inputs":{"x":[1,2');
    const again = await serve(home, { ...options, maxExamples: 20 });
    expect(await again.ask("/v1/adapters/mine/examples", { examples: examples.slice(3, 9) })).toMatchObject({
      body: { added: 4 },
    });
    const { examples: counts } = (await again.ask("/v1/adapters/mine")).body as { examples: Record<string, number> };
    expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(9);
    expect(await again.ask("/v1/adapters/mine/train", {})).toMatchObject({ status: 409 });
    expect(await again.ask("/v1/adapters/mine/examples", undefined, { method: "DELETE" })).toMatchObject({
      status: 200,
      body: { examples: { train: 0, choose: 0, judge: 0 } },
    });
  });

  it("refuses what does not fit", async () => {
    const home = await makeHome({ mine: start });
    const server = await serve(home, options);
    const send = (example: unknown, name = "mine"): ReturnType<TestServer["ask"]> =>
      server.ask(`/v1/adapters/${name}/examples`, { examples: [example] });
    const good = { inputs: { x: [1, 2, 3] }, label: 1 };
    for (const [example, name, status] of [
      [{ ...good, inputs: { x: [1, 2] } }, "mine", 400],
      [{ ...good, inputs: { x: [1, 2, 1e40] } }, "mine", 400],
      [{ ...good, inputs: {} }, "mine", 400],
      [{ ...good, inputs: { x: [1, 2, 3], y: [1] } }, "mine", 400],
      [{ ...good, label: 4 }, "mine", 400],
      [{ ...good, label: 0.5 }, "mine", 400],
      [{ ...good, label: [1, 2] }, "mine", 400],
      [{ ...good, label: "good" }, "mine", 400],
      [good, "nobody", 404],
      [good, "..%2fmine", 400],
      [good, "two", 404],
    ] as const) {
      expect(await send(example, name), JSON.stringify(example)).toMatchObject({ status });
    }
    expect(await send({ ...good, label: [1, 2, 3, 4] })).toMatchObject({ status: 200 });
  });

  it("writes through no link", async () => {
    const home = await makeHome({ mine: start, plain: start });
    const outside = join(home.folder, "outside");
    await mkdir(outside);
    await writeFile(join(outside, "kept"), "as it was");
    await symlink(join(outside, "kept"), join(home.adapters, "mine", "examples.jsonl"));
    await symlink(join(outside, "kept"), join(home.adapters, "plain", "serving.json"));
    await symlink(outside, join(home.adapters, "plain", "2"));
    const server = await serve(home, options);
    const examples = await examplesOf(100, "linked");
    const refused = await server.ask("/v1/adapters/mine/examples", { examples });
    expect(refused).toMatchObject({ status: 400, body: { error: { message: expect.stringContaining("got a link") } } });
    await server.ask("/v1/adapters/plain/examples", { examples });
    expect(await trained(server, "plain")).toMatchObject({ state: "failed", error: expect.stringContaining("2: ") });
    expect(await readdir(outside)).toEqual(["kept"]);
    expect(await readFile(join(outside, "kept"), "utf8")).toBe("as it was");
  });

  it("learns numbers as well as classes", async () => {
    const home = await makeHome({ mine: start });
    const server = await serve(home, options);
    const count = 200;
    const x = drawn("numbers", count, 3);
    const wanted = await aloneWith(model, teacher, { x });
    const examples = Array.from({ length: count }, (_, at) => ({
      inputs: { x: [...x.data.subarray(at * 3, at * 3 + 3)] },
      label: wanted.slice(at * 4, at * 4 + 4),
    }));
    await server.ask("/v1/adapters/mine/examples", { examples });
    const status = await trained(server, "mine");
    expect(status).toMatchObject({ state: "done", outcome: "better" });
    expect(status.after!.loss).toBeLessThan(status.before!.loss);
  });
});
