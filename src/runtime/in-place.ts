// Outputs in place. onnxruntime-node 1.30 writes a pre-allocated output where it is told to, and then copies every output
// once more, into a zeroed array that nobody reads: for the 11 MB of gradients of a full step of the study a third of its
// time (bench/LOG.md). It converts outputs in the graph's order and stops at the first that is no tensor. So the model gets
// such an output in front, an empty sequence: by the time that the binding refuses it the run is complete. Whether this
// holds is tried out once on a tiny model; where it does not, runs go the ordinary way.
import { createModel, graphBuilder } from "../onnx/builder.ts";
import type { Model } from "../onnx/model.ts";
import { writeModel } from "../onnx/write.ts";
import type { Ort } from "./ort.ts";

/** How the binding of onnxruntime-node refuses what is no tensor. */
const refusal = /^Non tensor type is temporarily not supported/;

/** A model whose runs stop before their outputs are copied. */
export interface Guarded {
  readonly model: Model;
  /** The output in front: to be fetched, and never to be had. */
  readonly guard: string;
}

/** The model with a guard as its first output. */
export function withGuard(model: Model): Guarded {
  const { graph } = model;
  const g = graphBuilder({ opset: model.opsets.get("") ?? 0, from: graph });
  const guard = g.op("SequenceEmpty", []);
  const outputs = [{ name: guard, type: undefined, shape: undefined, doc: "" }, ...graph.outputs];
  return { model: { ...model, graph: { ...g.build(), outputs } }, guard };
}

/** Whether `error` is the guard's doing: then all other outputs are in their places. */
export function isGuardError(error: unknown): boolean {
  return error instanceof Error && refusal.test(error.message);
}

let trying: Promise<boolean> | undefined;

/** Whether guarded runs of this runtime leave their outputs in place; tried out on the first call. */
export function leavesOutputsInPlace(ort: Ort): Promise<boolean> {
  trying ??= tryOut(ort).catch(() => false);
  return trying;
}

async function tryOut(ort: Ort): Promise<boolean> {
  if (ort.env.versions.node === undefined) return false;
  const g = graphBuilder({ opset: 17 });
  const x = g.input("x", "float32", [2]);
  g.output(g.op("Add", [x, x], {}, { output: "doubled" }), "float32", [2]);
  const { model, guard } = withGuard(createModel(g.build(), { opset: 17 }));
  const session = await ort.InferenceSession.create(writeModel(model), {
    executionProviders: ["cpu"],
    logSeverityLevel: 4,
  });
  try {
    const doubled = new Float32Array(2);
    const fetches = { [guard]: null, doubled: new ort.Tensor("float32", doubled, [2]) };
    await session.run({ x: new ort.Tensor("float32", Float32Array.of(1, -3), [2]) }, fetches).then(
      () => {
        throw new Error("internal: sequences can be converted now");
      },
      (error) => {
        if (!isGuardError(error)) throw error;
      },
    );
    return doubled[0] === 2 && doubled[1] === -6;
  } finally {
    await session.release();
  }
}
