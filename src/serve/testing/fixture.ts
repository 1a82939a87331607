// A server over a small model and adapters for it, with the engine in the same thread, and what its answers should be.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { attachLora } from "../../lora/attach.ts";
import type { Adapter } from "../../lora/config.ts";
import { initAdapter } from "../../lora/init.ts";
import { twoLayers } from "../../lora/testing/models.ts";
import type { Model } from "../../onnx/model.ts";
import { createRandom } from "../../random.ts";
import { saveAdapter } from "../../runs/adapter-files.ts";
import { saveModel } from "../../runs/save-model.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { createSession } from "../../train/infer.ts";
import type { Engine } from "../engine.ts";
import { openEngine } from "../local-engine.ts";
import type { ServeOptions } from "../options.ts";
import { type RunningServer, type ServeContext, startServer } from "../server.ts";

/** An empty folder that goes when the tests of the calling file have ended. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-serve-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface AdapterShape {
  readonly r?: number;
  readonly loraAlpha?: number;
  readonly targetModules?: readonly string[];
  readonly useDora?: boolean;
}

/** An adapter that changes much, decided by `seed` alone. */
export function adapterFor(model: Model, seed: number, shape: AdapterShape = {}): Adapter {
  const { adapter } = initAdapter(attachLora(model, { r: 2, loraAlpha: 4, ...shape }), { seed });
  const random = createRandom(seed, "serve fixture");
  const tensors = new Map(
    Array.from(adapter.tensors, ([key, value]) => {
      const isFactor = key.includes("lora_A") || key.includes("lora_B");
      const data = (value.data as Float32Array).map((one) =>
        isFactor ? 2 * random.uniform() - 1 : one * (1 + random.uniform()),
      );
      return [key, tensor("float32", value.dims, data)] as const;
    }),
  );
  return { ...adapter, tensors };
}

export interface Home {
  readonly folder: string;
  readonly modelPath: string;
  readonly adapters: string;
  readonly model: Model;
  /** Writes an adapter into the folder, in the place of one that was there. */
  write(name: string, adapter: Adapter): Promise<void>;
}

/** A model called two.onnx and a folder of adapters beside it. */
export async function makeHome(
  adapters: Readonly<Record<string, Adapter>> = {},
  model: Model = twoLayers(),
): Promise<Home> {
  const folder = temporaryFolder();
  const [modelPath, into] = [join(folder, "two.onnx"), join(folder, "adapters")];
  await saveModel(model, modelPath);
  const { mkdir } = await import("node:fs/promises");
  await mkdir(into);
  const write = (name: string, adapter: Adapter): Promise<void> => saveAdapter(join(into, name), adapter);
  for (const [name, adapter] of Object.entries(adapters)) await write(name, adapter);
  return { folder, modelPath, adapters: into, model, write };
}

/** The base's or an adapter's own answer, alone. */
export async function aloneWith(
  model: Model,
  adapter: Adapter | null,
  inputs: Readonly<Record<string, Tensor>>,
): Promise<number[]> {
  const session = await createSession(adapter === null ? model : attachLora(model, adapter.config));
  try {
    const outputs = await session.run(inputs, { adapter });
    return [...([...outputs.values()][0]!.data as Float32Array)];
  } finally {
    await session.dispose();
  }
}

export interface TestServer extends RunningServer {
  /** Log lines, as they were written. */
  readonly lines: string[];
  /** A request with a JSON body (or none), and its answer as JSON or text. */
  ask(path: string, body?: unknown, init?: RequestInit): Promise<{ status: number; body: unknown; headers: Headers }>;
}

interface TestOptions extends Partial<ServeOptions>, Pick<ServeContext, "tune"> {
  /** Milliseconds that loading an adapter takes longer. */
  readonly loadDelay?: number;
}

/** Starts a server on a free port that stops when the tests of the calling file have ended. */
export async function serve(home: Home, { tune, loadDelay = 0, ...options }: TestOptions = {}): Promise<TestServer> {
  const lines: string[] = [];
  const server = await startServer(
    { model: home.modelPath, adapters: home.adapters, port: 0, threads: 1, reload: 0, ...options },
    {
      log: { write: (line) => void lines.push(line) },
      openEngine: async (engine) => slowed(await openEngine(engine), loadDelay),
      ...(tune !== undefined && { tune: (task) => tune(task, new AbortController().signal) }),
    },
  );
  afterAll(() => server.stop());
  const ask: TestServer["ask"] = async (path, body, init = {}) => {
    const response = await fetch(`${server.url}${path}`, {
      ...(body !== undefined && {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: typeof body === "string" ? body : JSON.stringify(body),
      }),
      ...init,
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.startsWith("application/json") === true;
    return { status: response.status, body: isJson ? JSON.parse(text) : text, headers: response.headers };
  };
  return Object.assign(server, { lines, ask });
}

function slowed(engine: Engine, delay: number): Engine {
  return {
    description: engine.description,
    async load(...args) {
      if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
      return engine.load(...args);
    },
    unload: (key) => engine.unload(key),
    run: (job) => engine.run(job),
    dispose: () => engine.dispose(),
  };
}

/** An infer request of the small model: x [rows, 3]. */
export function inferBody(x: Tensor, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return { inputs: [{ name: "x", shape: x.dims, datatype: "FP32", data: [...(x.data as Float32Array)] }], ...more };
}

/** The first output of an answer. */
export function valuesOf(body: unknown): number[] {
  return (body as { outputs: { data: number[] }[] }).outputs[0]!.data;
}

/** How far two lists of numbers are apart at most. */
export function distance(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  return a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at]!)), 0);
}
