// Lowerings against ONNX Runtime's own kernels: one node is run as it is and lowered, on the same random inputs.
import { createModel, graphBuilder, type PlainAttributes } from "../../../onnx/builder.ts";
import { type Dim, fromTensor, type Model } from "../../../onnx/model.ts";
import { createRandom } from "../../../random.ts";
import { openSession } from "../../../runtime/session.ts";
import { elementCount, type Tensor, tensor } from "../../../tensor.ts";
import { lower } from "../lower.ts";

/** One node: an operator, its inputs ("" left out), and how many outputs it has. */
export interface LoweredCase {
  readonly op: string;
  readonly domain?: string;
  readonly inputs: readonly (readonly number[] | Tensor | "")[];
  readonly attributes?: PlainAttributes;
  /** Which outputs are asked for; default: the first. */
  readonly outputs?: readonly number[];
  /** Inputs whose values the graph holds. */
  readonly constants?: readonly number[];
  readonly opset?: number;
}

/** Normal values of a shape, the same for the same index. */
export function drawn(dims: readonly number[], index: number): Tensor<"float32"> {
  const random = createRandom(7, `input ${index}`);
  return tensor(
    "float32",
    dims,
    Float32Array.from({ length: elementCount(dims) }, () => random.normal()),
  );
}

export interface CaseModel {
  readonly model: Model;
  readonly feeds: ReadonlyMap<string, Tensor>;
}

/** The model of that one node; sizes of its inputs are symbols, unless `known`. */
export function caseModel(given: LoweredCase, known: boolean): CaseModel {
  const opset = given.opset ?? 18;
  const g = graphBuilder({ opset });
  const feeds = new Map<string, Tensor>();
  const names = given.inputs.map((input, index) => {
    if (input === "") return "";
    const value = "data" in input ? input : drawn(input, index);
    if (given.constants?.includes(index)) return g.initializer(`x${index}`, fromTensor(value));
    const shape = value.dims.map((size): Dim => (known || size === 1 ? size : `size_${size}`));
    const name = g.input(`x${index}`, value.type, shape);
    feeds.set(name, value);
    return name;
  });
  const wanted = given.outputs ?? [0];
  const count = Math.max(...wanted) + 1;
  const outputs = g.ops(given.op, names, count, given.attributes ?? {}, { domain: given.domain ?? "com.microsoft" });
  const graph = g.build();
  const node = graph.nodes[0]!;
  const kept = { ...node, outputs: outputs.map((name, index) => (wanted.includes(index) ? name : "")) };
  const model = createModel({ ...graph, nodes: [kept] }, { opset });
  const infos = wanted.map((index) => ({ name: outputs[index]!, type: undefined, shape: undefined, doc: "" }));
  return {
    model: {
      ...model,
      opsets: new Map([...model.opsets, ["com.microsoft", 1]]),
      graph: { ...model.graph, nodes: [kept], outputs: infos },
    },
    feeds,
  };
}

/** Runs a model once. */
export async function run(model: Model, feeds: ReadonlyMap<string, Tensor>): Promise<Map<string, Tensor>> {
  const session = await openSession(model, { threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.dispose();
  }
}

/** The largest |lowered - kernel| / (1 + |kernel|) over all outputs; Infinity where shapes or types differ. */
export async function loweringError(given: LoweredCase, known = true): Promise<number> {
  const { model, feeds } = caseModel(given, known);
  const lowered = lower(model);
  if (lowered === model) throw new Error(`${given.op} was not lowered`);
  const expected = await run(model, feeds);
  const actual = await run(lowered, feeds);
  return Math.max(...[...expected].map(([name, value]) => difference(actual.get(name)!, value)));
}

export function difference(actual: Tensor, expected: Tensor): number {
  if (actual.type !== expected.type || actual.dims.join() !== expected.dims.join()) return Number.POSITIVE_INFINITY;
  let error = 0;
  expected.data.forEach((value, index) => {
    const wanted = Number(value);
    const gap = Math.abs(Number(actual.data[index]) - wanted) / (1 + Math.abs(wanted));
    error = Number.isNaN(gap) ? Number.POSITIVE_INFINITY : Math.max(error, gap);
  });
  return error;
}
