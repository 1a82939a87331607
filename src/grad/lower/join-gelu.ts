// Gelu as exporters write it, joined into one operator. In primitives it is eight passes over the widest activations of a
// transformer, and as many tensors that wait for the backward pass; the runtime's own kernel is one pass, and its gradient
// (rules/activations.ts) needs x alone. How the factors are arranged differs from exporter to exporter, so that nothing is
// compared node by node: what a node computes is followed as a polynomial in x and t (t = tanh(u) or erf(u)), and it is
// Gelu where the polynomial is x/2 + x t/2.
import { makeNode } from "../../onnx/builder.ts";
import { consumers, producers, prune, storedValue } from "../../onnx/graph.ts";
import { type Graph, type Model, type Node, toTensor } from "../../onnx/model.ts";

/** A polynomial in x and t: coefficients by "degree of x,degree of t". */
type Polynomial = ReadonlyMap<string, number>;

/** Per kind of Gelu: the runtime's operator, and the u that its t is a function of. */
const kinds: Readonly<Record<string, { readonly op: string; readonly inner: Polynomial }>> = {
  Erf: { op: "Gelu", inner: new Map([["1,0", Math.SQRT1_2]]) },
  Tanh: {
    op: "FastGelu",
    inner: new Map([
      ["1,0", Math.sqrt(2 / Math.PI)],
      ["3,0", Math.sqrt(2 / Math.PI) * 0.044715],
    ]),
  },
};

const gelu: Polynomial = new Map([
  ["1,0", 0.5],
  ["1,1", 0.5],
]);

/** How many nodes may lie between t and what is searched for, before and behind. */
const reach = 6;

/** The model with each Gelu that is written in primitives as one com.microsoft.Gelu or FastGelu; the same when there is none. */
export function joinGelus(model: Model): Model {
  const { graph } = model;
  if (!graph.nodes.some(({ op }) => Object.hasOwn(kinds, op))) return model;
  const search = searchIn(graph);
  const joined = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const kind = node.domain === "" && Object.hasOwn(kinds, node.op) ? kinds[node.op] : undefined;
    const found = kind && search(node, kind.inner);
    if (kind === undefined || found === undefined) continue;
    const { end, x } = found;
    joined.set(
      end,
      makeNode({ op: kind.op, domain: "com.microsoft", name: end.name, inputs: [x], outputs: end.outputs }),
    );
  }
  if (joined.size === 0) return model;
  const opsets = new Map([["com.microsoft", 1], ...model.opsets]);
  const nodes = graph.nodes.map((node) => joined.get(node) ?? node);
  return { ...model, opsets, graph: prune({ ...graph, nodes }) };
}

/** Finds, for a node that computes t, the x that u is made of, and the node that ends the Gelu. */
function searchIn(graph: Graph): (t: Node, inner: Polynomial) => { end: Node; x: string } | undefined {
  const made = producers(graph);
  const readers = consumers(graph);
  const number = (value: string): number | undefined => {
    const stored = storedValue(graph, made, value);
    return stored?.type === "float32" && stored.bytes.byteLength === 4 ? Number(toTensor(stored).data[0]) : undefined;
  };
  const expand = (value: string, known: ReadonlyMap<string, Polynomial>, depth: number): Polynomial | undefined => {
    const already = known.get(value);
    if (already !== undefined) return already;
    const constant = number(value);
    if (constant !== undefined) return new Map([["0,0", constant]]);
    const node = made.get(value);
    if (node === undefined || depth === 0 || !isArithmetic(node)) return undefined;
    const [a, b] = node.inputs.map((input) => expand(input, known, depth - 1));
    return a === undefined || b === undefined ? undefined : operations[node.op]!(a, b);
  };
  const ancestors = (value: string, depth: number): string[] => {
    const node = made.get(value);
    const above = node === undefined || depth === 0 || !isArithmetic(node) ? [] : node.inputs;
    return [value, ...above.flatMap((input) => ancestors(input, depth - 1))];
  };
  return (t, inner) => {
    const u = t.inputs[0]!;
    const x = [...new Set(ancestors(u, reach))].find((candidate) => {
      if (number(candidate) !== undefined) return false;
      return isSame(expand(u, new Map([[candidate, new Map([["1,0", 1]])]]), reach), inner);
    });
    if (x === undefined) return undefined;
    const known = new Map<string, Polynomial>([
      [x, new Map([["1,0", 1]])],
      [t.outputs[0]!, new Map([["0,1", 1]])],
    ]);
    let behind = [t];
    for (let step = 0; step < reach; step++) {
      behind = behind.flatMap((node) => readers.get(node.outputs[0]!) ?? []).filter(isArithmetic);
      const end = behind.find((node) => isSame(expand(node.outputs[0]!, known, reach), gelu));
      if (end !== undefined) return { end, x };
    }
    return undefined;
  };
}

/** What the arithmetic that Gelu is written in does to polynomials; undefined where the result is none. */
const operations: Readonly<Record<string, (a: Polynomial, b: Polynomial) => Polynomial | undefined>> = {
  Add: (a, b) => sum(a, b, 1),
  Sub: (a, b) => sum(a, b, -1),
  Mul: (a, b) => product(a, b),
  Div: (a, b) => {
    const divisor = constantOf(b);
    return divisor === undefined ? undefined : product(a, new Map([["0,0", 1 / divisor]]));
  },
  Pow: (a, b) => {
    const exponent = constantOf(b);
    if (exponent === 2) return product(a, a);
    return exponent === 3 ? product(a, product(a, a)) : undefined;
  },
};

function isArithmetic({ domain, op }: Node): boolean {
  return domain === "" && Object.hasOwn(operations, op);
}

function constantOf(polynomial: Polynomial): number | undefined {
  return polynomial.size === 1 ? polynomial.get("0,0") : undefined;
}

function sum(a: Polynomial, b: Polynomial, sign: 1 | -1): Polynomial {
  const result = new Map(a);
  for (const [degrees, factor] of b) result.set(degrees, (result.get(degrees) ?? 0) + sign * factor);
  return result;
}

function product(a: Polynomial, b: Polynomial): Polynomial {
  const result = new Map<string, number>();
  for (const [left, p] of a) {
    for (const [right, q] of b) {
      const [x, t] = left.split(",").map(Number) as [number, number];
      const [moreX, moreT] = right.split(",").map(Number) as [number, number];
      const degrees = `${x + moreX},${t + moreT}`;
      result.set(degrees, (result.get(degrees) ?? 0) + p * q);
    }
  }
  return result;
}

/** Equal up to the rounding of stored constants. */
function isSame(a: Polynomial | undefined, b: Polynomial): boolean {
  if (a === undefined || a.size !== b.size) return false;
  return [...b].every(([degrees, factor]) => Math.abs((a.get(degrees) ?? 0) - factor) <= 1e-6 * Math.abs(factor));
}
