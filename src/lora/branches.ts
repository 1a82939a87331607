// The branch that LoRA adds at each kind of layer, from its input to base + s B(A(x)). Formulas: PEFT 0.21,
// tuners/lora/layer.py (Linear, Embedding and _ConvNd).
import { float, type GraphBuilder, makeNode, type Value } from "../onnx/builder.ts";
import { intAttribute } from "../onnx/model.ts";
import type { Site } from "../onnx/sites.ts";
import type { AdaptedSite } from "./adapted.ts";

/** Writes the branch; `base` is what the layer gives without it, `output` what the sum is called. */
export type Branch = (g: GraphBuilder, adapted: AdaptedSite, base: Value, output: Value) => void;

/** The branch for a site whose input has `rank` dimensions, where that is known. */
export function branchFor({ kind, node }: Site, rank: number | undefined): Branch {
  if (kind === "Embedding") return embeddingBranch;
  if (kind !== "Linear") return convBranch;
  return node.op === "Gemm" || rank === 2 ? gemmBranch : matMulBranch;
}

/** Gemm(Gemm(x, A^T), s B^T) + base: two nodes for matrices. */
const gemmBranch: Branch = (g, { scale, a, b, site }, base, output) => {
  // Of a Gemm that reads x^T, the branch does as well.
  const transA = site.node.op === "Gemm" ? intAttribute(site.node, "transA", 0) : 0;
  const h = g.op("Gemm", [site.input, a], { ...(transA !== 0 && { transA }), transB: 1 }, named(site, "A"));
  const attributes = new Map([
    ...(scale === 1 ? [] : [["alpha", float(scale)] as const]),
    ["transB", { kind: "int", value: 1n } as const] as const,
  ]);
  const name = g.freshName(named(site, "B").name);
  g.node(makeNode({ op: "Gemm", name, inputs: [h, b, base], outputs: [output], attributes }));
};

/** base + s (x A^T) B^T for any number of dimensions. */
const matMulBranch: Branch = (g, { scale, a, b, site }, base, output) => {
  const h = g.op("MatMul", [site.input, transposed(g, a)], {}, named(site, "A"));
  const delta = g.op("MatMul", [scaled(g, h, scale), transposed(g, b)], {}, named(site, "B"));
  add(g, site, base, delta, output);
};

/** base + s A^T[x] B^T: row x of A^T, brought to the embedding's width. */
const embeddingBranch: Branch = (g, { scale, a, b, site }, base, output) => {
  const h = g.op("Gather", [transposed(g, a), site.input], {}, named(site, "A"));
  const delta = g.op("MatMul", [scaled(g, h, scale), transposed(g, b)], {}, named(site, "B"));
  add(g, site, base, delta, output);
};

/** base + conv1x1(conv(x, A), s B): A has the base's stride and padding over all channels, B its groups. */
const convBranch: Branch = (g, { scale, a, b, site }, base, output) => {
  const { node, groups, input } = site;
  const geometry = ["strides", "pads", "auto_pad", "kernel_shape"].flatMap((name) => {
    const attribute = node.attributes.get(name);
    return attribute === undefined ? [] : [[name, attribute] as const];
  });
  const h = g.op("Conv", [input, a], Object.fromEntries(geometry), named(site, "A"));
  // B is the smallest of what could be scaled.
  const delta = g.op("Conv", [h, scaled(g, b, scale)], groups === 1 ? {} : { group: groups }, named(site, "B"));
  add(g, site, base, delta, output);
};

function scaled(g: GraphBuilder, value: Value, scale: number): Value {
  return scale === 1 ? value : g.op("Mul", [value, g.constant("float32", scale)]);
}

function transposed(g: GraphBuilder, matrix: Value): Value {
  return g.op("Transpose", [matrix], { perm: [1, 0] });
}

function add(g: GraphBuilder, site: Site, base: Value, delta: Value, output: Value): void {
  g.node(makeNode({ op: "Add", name: g.freshName(named(site, "sum").name), inputs: [base, delta], outputs: [output] }));
}

function named({ modulePath }: Site, part: string): { name: string } {
  return { name: `${modulePath}/lora/${part}` };
}
