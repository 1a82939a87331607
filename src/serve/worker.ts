// The thread in which the model runs. It does what it is told in the order in which it is told, one thing after the other.
import { parentPort, workerData } from "node:worker_threads";
import { LowrankError } from "../errors.ts";
import type { Engine, EngineOptions, Job, JobResult } from "./engine.ts";
import { openEngine } from "./local-engine.ts";
import type { Answer, Order } from "./worker-engine.ts";

process.env.ORT_DISABLE_TELEMETRY ??= "1";

const port = parentPort!;
const opening = openEngine(workerData as EngineOptions);
let turn: Promise<unknown> = opening.then(
  (engine) => port.postMessage({ id: 0, value: engine.description } satisfies Answer),
  (error: unknown) => port.postMessage({ id: 0, error: plainError(error) } satisfies Answer),
);

port.on("message", ({ id, order }: { id: number; order: Order }) => {
  turn = turn.then(async () => {
    try {
      const value = await obey(await opening, order);
      port.postMessage({ id, value } satisfies Answer, order.kind === "run" ? buffersOf(value as JobResult) : []);
    } catch (error) {
      port.postMessage({ id, error: plainError(error) } satisfies Answer);
    }
  });
});

async function obey(engine: Engine, order: Order): Promise<unknown> {
  switch (order.kind) {
    case "load":
      return engine.load(order.key, order.label, order.source);
    case "unload":
      return engine.unload(order.key);
    case "run":
      return engine.run(order.job as Job);
    case "dispose":
      await engine.dispose();
      port.close();
  }
}

/** The memory of all outputs, which is handed over rather than copied. Views of one output share theirs. */
function buffersOf({ results }: JobResult): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const result of results) {
    if ("failure" in result) continue;
    for (const { data } of Object.values(result.outputs)) buffers.add(data.buffer as ArrayBuffer);
  }
  return [...buffers];
}

function plainError(error: unknown): NonNullable<Answer["error"]> {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof LowrankError) return { message, code: error.code, faults: error.faults };
  return { message, stack: error instanceof Error ? error.stack : undefined };
}
