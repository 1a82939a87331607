// A large matrix whose products ONNX Runtime computes, on all its threads or on a GPU: for truncated SVDs with many vectors at
// once (`iterations`). In float32, so that nothing converges past about 1e-7 of the largest singular value.
import type { AsyncLinearMap } from "../linalg/linear-map.ts";
import type { Matrix } from "../linalg/matrix.ts";
import { createModel, graphBuilder } from "../onnx/builder.ts";
import { openSession, type Session, type SessionOptions } from "../runtime/session.ts";
import { tensor } from "../tensor.ts";

/** Frees its sessions with `dispose`. */
export interface RuntimeMap extends AsyncLinearMap {
  dispose(): Promise<void>;
}

/**
 * The map of `values` [rows, columns]. The runtime keeps a packed copy for each of the two directions.
 *
 * @throws LowrankError "runtime" when the runtime is missing or lacks the device.
 * @example
 * const map = await openProducts(50257, 768, embedding);
 * const { s } = await truncatedSvdAsync(map, 64, { iterations: 2 });
 * await map.dispose();
 */
export async function openProducts(
  rows: number,
  columns: number,
  values: Float32Array,
  options: SessionOptions = {},
): Promise<RuntimeMap> {
  const open = (isTransposed: boolean): Promise<Session> => {
    const g = graphBuilder({ name: "products", opset: 18 });
    const x = g.input("x", "float32", ["count", isTransposed ? rows : columns]);
    const w = g.initializer("w", tensor("float32", [rows, columns], values));
    const y = g.op("Gemm", [x, w], { transB: isTransposed ? 0 : 1 }, { output: "y" });
    g.output(y, "float32", ["count", isTransposed ? columns : rows]);
    return openSession(createModel(g.build(), { opset: 18 }), options);
  };
  const forward = await open(false);
  const back = await open(true).catch(async (error: unknown) => {
    await forward.dispose();
    throw error;
  });
  const multiply = async (session: Session, { rows: count, columns: length, data }: Matrix): Promise<Matrix> => {
    const x = tensor("float32", [count, length], Float32Array.from(data));
    const y = (await session.run(new Map([["x", x]]))).get("y")!;
    return { rows: count, columns: y.dims[1]!, data: Float64Array.from(y.data as Float32Array) };
  };
  return {
    rows,
    columns,
    apply: (vectors) => multiply(forward, vectors),
    applyTranspose: (vectors) => multiply(back, vectors),
    dispose: async () => {
      await forward.dispose();
      await back.dispose();
    },
  };
}
