// Weights of 8 signed bits in products by 8-bit activations. Where a processor has no VNNI, the runtime adds such products in
// pairs of 16 bits, which saturate; asked for precision (session-options.ts), it makes the weights unsigned, which is exact. It
// names the new weights after the old ones, once for each node that reads them (it copies a DequantizeLinear for each of its own
// readers), and refuses a model where two nodes read the same; and where a DequantizeLinear has no zero point, it makes one of the wrong shape (onnxruntime 1.30).
import { producers, storedValue } from "../onnx/graph.ts";
import type { Graph, Model, Node, StoredTensor } from "../onnx/model.ts";
import { elementCount } from "../tensor.ts";

/** Operators that are there only where activations are rounded to 8 bits. */
const integerOperators: ReadonlySet<string> = new Set([
  ...["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"],
  ...["DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QAttention"],
]);

/** Whether a model multiplies 8-bit activations. One whose weights alone have 8 bits does not: they are dequantized before. */
export function hasIntegerProducts({ graph }: Model): boolean {
  return graph.nodes.some(({ op }) => integerOperators.has(op));
}

/** The model with a name of its own, over the same bytes, and a zero point for each node that reads an int8 weight. */
export function withOwnSignedWeights(model: Model): Model {
  const { graph } = model;
  const made = producers(graph);
  const initializers = new Map(graph.initializers);
  const names = new Set([...initializers.keys(), ...made.keys(), ...graph.inputs.map(({ name }) => name)]);
  const add = (name: string, weight: StoredTensor): string => {
    const fresh = unused(names, name);
    names.add(fresh);
    initializers.set(fresh, weight);
    return fresh;
  };
  const read = new Set<string>();
  const own = (name: string): string => {
    const weight = graph.initializers.get(name);
    if (weight?.type !== "int8") return name;
    if (read.has(name)) return add(name, weight);
    read.add(name);
    return name;
  };
  const nodes = withOneReaderEach(graph, names).map((node) => {
    const inputs = node.inputs.map(own);
    const zero = missingZeroPoint(graph, made, node);
    return { ...node, inputs: zero === null ? inputs : [...inputs.slice(0, 2), add(`${node.inputs[0]}/zero`, zero)] };
  });
  return initializers.size === graph.initializers.size ? model : { ...model, graph: { ...graph, initializers, nodes } };
}

/** The nodes, with a DequantizeLinear of an int8 weight for each node that reads its result. Adds to `names`. */
function withOneReaderEach({ nodes, initializers }: Graph, names: Set<string>): readonly Node[] {
  const isSigned = ({ op, inputs }: Node): boolean =>
    op === "DequantizeLinear" && initializers.get(inputs[0] ?? "")?.type === "int8";
  const dequantized = new Map(nodes.filter(isSigned).map((node) => [node.outputs[0]!, node]));
  const read = new Set<string>();
  return nodes.flatMap((node) => {
    const copies: Node[] = [];
    const inputs = node.inputs.map((input) => {
      const made = dequantized.get(input);
      if (made === undefined || !read.has(input)) {
        read.add(input);
        return input;
      }
      const output = unused(names, input);
      names.add(output);
      copies.push({ ...made, name: output, outputs: [output] });
      return output;
    });
    return copies.length === 0 ? [node] : [...copies, { ...node, inputs }];
  });
}

/** The zero point, of its scale's shape, that a DequantizeLinear of an int8 weight leaves out; null where it leaves none out. */
function missingZeroPoint(graph: Graph, made: ReadonlyMap<string, Node>, { op, inputs }: Node): StoredTensor | null {
  const [weight, scale, zero = ""] = inputs as [string, string, string?];
  if (op !== "DequantizeLinear" || zero !== "" || graph.initializers.get(weight)?.type !== "int8") return null;
  const late = made.get(scale); // A scale that waits for something is a Where between itself and itself.
  const { dims } = storedValue(graph, made, late?.op === "Where" ? late.inputs[1]! : scale) ?? {};
  return dims === undefined ? null : { type: "int8", dims, bytes: new Uint8Array(elementCount(dims)) };
}

function unused(names: ReadonlySet<string>, name: string): string {
  let fresh = name;
  for (let count = 2; names.has(fresh); count++) fresh = `${name}/${count}`;
  return fresh;
}
