// `lowrank serve` as users start it: a process with worker threads, asked over HTTP while its adapters are loaded, unloaded and
// replaced. Every answer must be that of the content that it names, run alone, and far from every other's.
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Adapter,
  attachLora,
  createRandom,
  createSession,
  initAdapter,
  loadModel,
  type Model,
  saveAdapter,
  tensor,
} from "lowrank";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lowrank, type Running, startLowrank, until } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

const [rows, width] = [3, 20];
const x = Float32Array.from({ length: rows * width }, (_, at) => Math.sin(at));
const body = JSON.stringify({ inputs: [{ name: "x", shape: [rows, width], datatype: "FP32", data: [...x] }] });
const json = { "content-type": "application/json" };

interface Started {
  readonly running: Running;
  readonly url: string;
}

/** Starts a server and waits until it listens. */
async function start(folder: string, args: readonly string[], env: Record<string, string> = {}): Promise<Started> {
  const command = ["serve", "base.onnx", "--adapters", "adapters", "--port", "0", "--log-level", "info", ...args];
  const running = startLowrank(command, { cwd: folder, env });
  afterAll(() => void running.process.kill("SIGKILL"));
  await until(() => running.soFar.stdout.includes('"listening"'), running);
  const line = running.soFar.stdout.split("\n").find((one) => one.includes('"listening"'))!;
  return { running, url: (JSON.parse(line) as { url: string }).url };
}

/** An adapter of which each seed's answers are far from another's. */
function strongAdapter(model: Model, seed: number): Adapter {
  const { adapter } = initAdapter(attachLora(model, { r: 4, loraAlpha: 8 }), { seed });
  const random = createRandom(seed, "serve journey");
  const tensors = [...adapter.tensors].map(([key, { dims }]) => {
    const count = dims.reduce((product, dim) => product * dim, 1);
    return [
      key,
      tensor(
        "float32",
        dims,
        Float32Array.from({ length: count }, () => random.uniform() - 0.5),
      ),
    ] as const;
  });
  return { ...adapter, tensors: new Map(tensors) };
}

interface Reply {
  readonly status: number;
  readonly values: readonly number[];
  readonly digest: string | undefined;
}

async function ask(url: string, name: string): Promise<Reply> {
  const response = await fetch(`${url}/v2/models/${name}/infer`, { method: "POST", headers: json, body });
  const answer = (await response.json()) as { outputs?: { data: number[] }[]; parameters?: { adapter_digest: string } };
  return {
    status: response.status,
    values: answer.outputs?.[0]?.data ?? [],
    digest: answer.parameters?.adapter_digest,
  };
}

function distance(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  return Math.max(...a.map((value, at) => Math.abs(value - b[at]!)));
}

const folder = temporaryFolder();
const contents: Adapter[] = [];
const expected: (readonly number[])[] = [];

beforeAll(async () => {
  mkdirSync(join(folder, "adapters"));
  copyFileSync(join(root, "test", "fixtures", "golden", "mlp", "model.onnx"), join(folder, "base.onnx"));
  const model = await loadModel(join(folder, "base.onnx"));
  for (let seed = 0; seed < 6; seed++) contents.push(strongAdapter(model, seed));
  const session = await createSession(attachLora(model, contents[0]!.config));
  for (const adapter of contents) {
    const outputs = await session.run({ x: tensor("float32", [rows, width], x) }, { adapter });
    expected.push([...([...outputs.values()][0]!.data as Float32Array)]);
  }
  await session.dispose();
  for (const at of [0, 1, 2, 3]) await saveAdapter(join(folder, "adapters", `a${at}`), contents[at]!);
});

/** Which content an answer is; -1 for none. */
function contentOf(values: readonly number[]): number {
  return expected.findIndex((one) => distance(one, values) < 1e-4);
}

describe("lowrank serve", () => {
  it("answers rightly while adapters are loaded, unloaded and replaced, with two workers and room for three", async () => {
    const { running, url } = await start(folder, [
      "--allow-loading",
      "--workers",
      "2",
      "--threads",
      "1",
      "--max-resident",
      "3",
      "--reload",
      "0.05",
    ]);
    const end = performance.now() + 4000;
    const digests = new Map<string, number>();
    let [answered, away] = [0, 0];
    const client = async (seed: number): Promise<void> => {
      const random = createRandom(seed, "client");
      while (performance.now() < end) {
        const name = `a${random.integer(4)}`;
        const { status, values, digest } = await ask(url, name);
        if (status !== 200) {
          // a3 alone is unloaded at times; what finds no room beside what is in use is asked to come again.
          expect([404, 503], `${name} ${status}`).toContain(status);
          away++;
          continue;
        }
        const content = contentOf(values);
        expect(content, name).toBeGreaterThanOrEqual(0);
        if (name !== "a0") expect(content).toBe(Number(name.slice(1)));
        else expect([0, 4, 5]).toContain(content);
        // An answer and the content that it names are one and the same.
        expect(digests.get(digest!) ?? content).toBe(content);
        digests.set(digest!, content);
        answered++;
      }
    };
    const changer = async (): Promise<void> => {
      for (let turn = 0; performance.now() < end; turn++) {
        await saveAdapter(join(folder, "adapters", "a0"), contents[[0, 4, 5][turn % 3]!]!);
        const verb = turn % 2 === 0 ? "unload" : "load";
        await fetch(`${url}/v2/repository/models/a3/${verb}`, { method: "POST" });
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    };
    await Promise.all([changer(), ...Array.from({ length: 8 }, (_, seed) => client(seed))]);
    expect(answered).toBeGreaterThan(200);
    expect(new Set(digests.values())).toEqual(new Set([0, 1, 2, 3, 4, 5]));
    expect(away).toBeLessThan(answered);
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toMatch(/lowrank_adapters_resident [0-3]\n/);
    expect(metrics).toMatch(/lowrank_workers 2\n/);
    running.process.kill("SIGTERM");
    expect((await running.ended).code).toBe(0);
    expect(running.soFar.stdout).not.toContain("internal error");
  });

  it("takes its key from the environment or a file, and ends with what it accepted", async () => {
    const key = "from-the-environment";
    const { running, url } = await start(folder, ["--max-delay", "400"], { LOWRANK_API_KEY: key });
    expect((await fetch(`${url}/v2`)).status).toBe(401);
    expect((await fetch(`${url}/v2/health/ready`)).status).toBe(200);
    const headers = { ...json, authorization: `Bearer ${key}` };
    const asked = fetch(`${url}/v2/models/a1/infer`, { method: "POST", headers, body });
    await new Promise((resolve) => setTimeout(resolve, 150));
    running.process.kill("SIGTERM");
    const response = await asked;
    expect(response.status).toBe(200);
    expect(contentOf(((await response.json()) as { outputs: { data: number[] }[] }).outputs[0]!.data)).toBe(1);
    expect((await running.ended).code).toBe(0);
    expect(running.soFar.stdout).not.toContain(key);
  });

  it("tunes an adapter from examples in a thread of its own", async () => {
    const { running, url } = await start(folder, ["--feedback"]);
    const send = async (path: string, value?: unknown): Promise<unknown> => {
      const init = value === undefined ? {} : { method: "POST", headers: json, body: JSON.stringify(value) };
      return (await fetch(`${url}/v1/adapters/a2${path}`, init)).json();
    };
    // Every row is of the same class, whatever it holds: easily learnt.
    const random = createRandom(0, "lessons");
    const examples = Array.from({ length: 200 }, () => ({
      inputs: { x: Array.from({ length: width }, () => random.uniform()) },
      label: 1,
    }));
    expect(await send("/examples", { examples })).toMatchObject({ added: 200 });
    expect(await send("/train", {})).toMatchObject({ state: "queued" });
    const training = async (): Promise<{ state: string }> => (await send("/train")) as { state: string };
    await expect.poll(async () => (await training()).state, { timeout: 30_000, interval: 100 }).toMatch(/done|failed/);
    expect(await training()).toMatchObject({ state: "done", outcome: "better", version: "2" });
    const { values } = await ask(url, "a2");
    expect(contentOf(values)).toBe(-1);
    expect(await send("/rollback", {})).toEqual({ name: "a2", current: "1" });
    expect(contentOf((await ask(url, "a2")).values)).toBe(2);
    running.process.kill("SIGTERM");
    expect((await running.ended).code).toBe(0);
  });

  it("says in one line what is wrong with how it was started", async () => {
    writeFileSync(join(folder, "short.key"), "short\n");
    for (const [args, message] of [
      [["nowhere.onnx"], /nowhere\.onnx/],
      [["base.onnx", "--adapters", "nowhere"], /nowhere/],
      [["base.onnx", "--port", "70000"], /port: expected a whole number from 0 to 65535, got 70000/],
      [["base.onnx", "--api-key-file", "short.key"], /16 or more/],
      [["base.onnx", "--adapters", "adapters", "--name", "a1"], /an adapter is called "a1"/],
      [["base.onnx", "--memory", "lots"], /expected a size such as/],
    ] as const) {
      const { code, stderr } = await lowrank(["serve", ...args], { cwd: folder });
      expect(code, stderr).toBeGreaterThan(0);
      expect(stderr).toMatch(message);
      expect(stderr.trim().split("\n")).toHaveLength(1);
    }
  });
});
