// Sessions for finite differences: in float64 where ONNX Runtime has the kernels, in float32 where it has not.
import { LowrankError } from "../errors.ts";
import { inFloat64, narrowed } from "../onnx/float64.ts";
import type { Model } from "../onnx/model.ts";
import { openSession, type Session, type SessionOptions, type Tensors } from "./session.ts";

export type Precision = "float32" | "float64";

export interface PreciseSession {
  /** What it computes in. */
  readonly precision: Precision;
  /** Runs once. Feeds are float64 where the model has float32; results are what it computes in. */
  run(feeds: Tensors): Promise<Tensors>;
  /** Frees the session. */
  dispose(): Promise<void>;
}

/** Operators whose kernels take float64 when a session is made, and refuse it when it runs. */
const onlyFloat32 = new Set(["LSTM", "GRU"]);

/** Loads a float32 model for computing in float64, or as it is when the runtime lacks a kernel for that. */
export async function openPrecise(model: Model, options: SessionOptions = {}): Promise<PreciseSession> {
  let session: Session;
  try {
    const single = model.graph.nodes.find(({ op }) => onlyFloat32.has(op));
    if (single !== undefined) throw new LowrankError("runtime", `${single.op} has no float64 kernel`);
    session = await openSession({ ...model, graph: inFloat64(model.graph) }, options);
    return { precision: "float64", run: (feeds) => session.run(feeds), dispose: () => session.dispose() };
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    session = await openSession(model, options);
    const run = (feeds: Tensors): Promise<Tensors> =>
      session.run(new Map([...feeds].map(([name, value]) => [name, narrowed(value)])));
    return { precision: "float32", run, dispose: () => session.dispose() };
  }
}

/**
 * The derivative of `at` at 0, from four points with Richardson's extrapolation over two step sizes: the error is of order h^4.
 *
 * @param h half the distance of the nearer two points.
 */
export async function centralSlope(at: (t: number) => Promise<number>, h: number): Promise<number> {
  const slope = async (step: number): Promise<number> => ((await at(step)) - (await at(-step))) / (2 * step);
  return (4 * (await slope(h)) - (await slope(2 * h))) / 3;
}
