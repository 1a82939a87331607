// A worker of the page: the runtime, the base and the adapters live here. The page starts one for predictions and measurements,
// and a second when something is taught, so that predictions go on meanwhile. What only a press of a button needs is loaded then.
import { LowrankError } from "lowrank";
import type { Opened } from "../protocol.ts";
import { type Base, loadBase } from "./base.ts";
import { fetchKept } from "./fetch.ts";
import { measure, ranks } from "./measuring.ts";
import { adapterOf, infoOf, Shelf } from "./mix.ts";
import { layerPicture } from "./picture.ts";
import { Runner, type Where } from "./runner.ts";
import { serve } from "./serve.ts";
import { cell, trace } from "./trace.ts";

interface Opening {
  readonly base: Base;
  readonly runner: Runner;
  readonly session: Where;
}

const shelf = new Shelf();
let opening: Promise<Opening> | undefined;
let training: AbortController | undefined;
/** The base's logits for the digit that was last asked for. */
let read: { readonly key: string; readonly logits: Float32Array } | undefined;

/** Says of an adapter that does not fit what does. */
function refuse(error: unknown): never {
  if (!(error instanceof LowrankError)) throw error;
  throw new LowrankError(
    "adapter",
    `${error.message}\nThis page runs LoRA and rsLoRA on its base's fc1, fc2 and fc3; DoRA, trained biases, whole layers, and PiSSA's changed base run with the lowrank library.`,
  );
}

function opened(): Promise<Opening> {
  if (opening === undefined) throw new Error("internal: the worker was asked before it was opened");
  return opening;
}

serve({
  open: async ({ device, threads }, tell): Promise<Opened> => {
    const session = { device, threads };
    opening = loadBase(tell).then((base) => ({ base, runner: new Runner(base.model, session), session }));
    const { base } = await opened();
    return {
      ...{ about: base.about, layers: base.layers, parameters: base.parameters, baseBytes: base.bytes.length, device },
      threads,
      misread: base.misread,
      kept: base.kept,
    };
  },
  load: async ({ id, files }) => {
    const { runner } = await opened();
    const adapter = adapterOf(files, "adapter");
    await runner.check(adapter).catch(refuse);
    shelf.put(id, adapter);
    return infoOf(adapter, files);
  },
  unload: ({ id }) => {
    shelf.remove(id);
    return null;
  },
  readFiles: async ({ files }) => (await import("./files.ts")).readDropped(files),
  readyFiles: async ({ id }) => {
    const { base } = await opened();
    const names = ["adapter_config.json", "adapter_model.safetensors"];
    const bytes = await Promise.all(names.map((name) => fetchKept(base.about, `${id}-${name}`)));
    return Object.fromEntries(names.map((name, index) => [name, bytes[index]!]));
  },
  compose: ({ mix }) => shelf.mix(mix).composed,
  predict: async ({ pixels, mix }) => {
    const { runner } = await opened();
    const { adapter } = shelf.mix(mix);
    const begun = performance.now();
    // Moving a slider leaves the digit as it is, and what the base makes of it.
    const key = pixels.join();
    const base = read?.key === key ? read.logits : await runner.logits(pixels, null);
    read = { key, logits: base };
    const adapted = adapter === null ? base : await runner.logits(pixels, adapter);
    return { base, adapted, ms: performance.now() - begun };
  },
  picture: async ({ mix, layer }) => layerPicture((await opened()).base.model, shelf.mix(mix).adapter, layer),
  trace: async ({ mix, pixels }) => {
    const { model } = (await opened()).base;
    const whole = shelf.mix({ ...mix, rank: null }).adapter;
    const parts = mix.parts.map((part) => shelf.mix({ ...mix, parts: [part], rank: null }).adapter);
    return trace(model, { adapter: shelf.mix(mix).adapter, whole, parts }, pixels);
  },
  measure: async ({ mix, examples }, _tell, pause) => {
    const { base, runner } = await opened();
    return measure(base, runner, shelf.mix(mix).adapter, examples, pause);
  },
  ranks: async ({ mix, examples }, _tell, pause) => {
    const { base, runner } = await opened();
    return ranks(base, runner, shelf, mix, examples, pause);
  },
  cell: async ({ mix, layer, at, pixels }) =>
    cell((await opened()).base.model, shelf.mix(mix).adapter, { layer, at, pixels }),
  export: async ({ mix, kind }) => {
    const [{ base }, { exported }] = await Promise.all([opened(), import("./files.ts")]);
    return exported(kind, base, shelf.mix(mix));
  },
  packExamples: async (collection) => {
    const [{ base }, { packExamples }] = await Promise.all([opened(), import("./files.ts")]);
    return packExamples(collection, base);
  },
  readExamples: async ({ name, bytes }) => (await import("./files.ts")).readExamples(bytes, name),
  inspect: async ({ file, r, targets }) => (await import("./inspection.ts")).inspect(file, r, targets),
  warmUp: async () => {
    const [{ base, session }, { warmUp }] = await Promise.all([opened(), import("./training.ts")]);
    await warmUp(base, session);
    return null;
  },
  train: async (request, tell) => {
    const [{ base, session }, { teach }] = await Promise.all([opened(), import("./training.ts")]);
    training = new AbortController();
    try {
      return await teach(base, request, { session, signal: training.signal, tell });
    } finally {
      training = undefined;
    }
  },
  stop: () => {
    training?.abort();
    return null;
  },
});
