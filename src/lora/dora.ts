// DoRA: the update turns a weight's direction, and a magnitude m of its own is trained beside it (Liu et al. 2024,
// arXiv:2402.09353, eq. 5). With n the norm of each output's W + s B A and f = m / n, the layer gives
// base + (f - 1) W x + f s B A x. The norm is a constant in the backward pass (section 4.3). Its square is taken as
// |W|^2 + 2 s <W, B A> + s^2 |B A|^2 with thin products, so that W + s B A is never made: |W|^2 is summed once in float64.
import type { GraphBuilder, Value } from "../onnx/builder.ts";
import type { Site } from "../onnx/sites.ts";
import { stopGradient } from "../onnx/stop-gradient.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { AdaptedSite } from "./adapted.ts";
import type { Branch } from "./branches.ts";
import { magnitudeDims } from "./keys.ts";
import { overChannels } from "./stages.ts";
import { squaredNorms } from "./weights.ts";

/** Squared norms below this are taken as this: an output without weights has no direction, and nothing divides by zero. */
const least = 2 ** -126;

/**
 * The branch of a DoRA site.
 *
 * @param plain the LoRA branch of the same site.
 * @param weight the values of W as the graph stores them.
 */
export function doraBranch(plain: Branch, weight: Tensor<"float32">): Branch {
  return (g, adapted, base, output) => {
    const { site, b } = adapted;
    const factor = factorOf(g, adapted, weight); // [out]
    // W x alone, under a name of its own: with dropout it is taken of another x.
    const name = { name: `${site.modulePath}/lora/W` };
    const bias = site.node.op === "MatMul" ? undefined : site.node.inputs[2];
    const product =
      bias === undefined || bias === "" || site.kind === "Embedding"
        ? g.op("Identity", [base], {}, name)
        : g.op("Sub", [base, overChannels(g, site, bias)], {}, name);
    const change = g.op("Sub", [overChannels(g, site, factor), g.constant("float32", 1)], {}, scoped(site, "change"));
    const turned = g.op(
      "Add",
      [base, g.op("Mul", [product, change], {}, scoped(site, "turn"))],
      {},
      scoped(site, "turned"),
    );
    const column = g.op("Reshape", [factor, g.constant("int64", [site.outFeatures, 1, ...site.kernel.map(() => 1)])]);
    const ownB = g.op("Mul", [b, column], {}, scoped(site, "B"));
    plain(g, { ...adapted, b: ownB }, turned, output);
  };
}

/** f = m / n [out], n without a gradient. */
function factorOf(g: GraphBuilder, { site, scale, a, b, magnitude }: AdaptedSite, weight: Tensor<"float32">): Value {
  const named = (part: string): { name: string } => scoped(site, part);
  const flat = (value: Value): Value => (site.kernel.length === 0 ? value : g.op("Flatten", [value], { axis: 1 }));
  const [A, B] = [flat(a), flat(b)]; // [r, columns], [out, r]
  const isTransposed = site.layout === "in,out" ? 1 : 0;
  const inner = g.op("Gemm", [flat(site.weight), A], { transA: isTransposed, transB: 1 }, named("W A"));
  const squares = g.op("MatMul", [B, g.op("Gemm", [A, A], { transB: 1 })], {}, named("B A A"));
  const times = (value: Value, by: number): Value => g.op("Mul", [value, g.constant("float32", by)]);
  const sum = g.op("Add", [times(inner, 2 * scale), times(squares, scale * scale)]);
  const added = g.op("ReduceSum", [g.op("Mul", [B, sum]), g.constant("int64", [1])], { keepdims: 0 });
  const own = g.initializer(
    `${site.modulePath}.squares`,
    tensor("float32", [site.outFeatures], squaresOf(site, weight)),
  );
  const total = g.op("Max", [g.op("Add", [own, added]), g.constant("float32", least)]);
  const norm = stopGradient(g, g.op("Sqrt", [total], {}, named("norm")));
  const m = site.kernel.length === 0 ? magnitude! : g.op("Reshape", [magnitude!, g.constant("int64", [-1])]);
  return g.op("Div", [m, norm], {}, named("factor"));
}

function squaresOf(site: Site, weight: Tensor<"float32">): Float32Array {
  return Float32Array.from(squaredNorms(site, weight));
}

/** The magnitude with which a layer is its base: the norms of W, rounded as the graph rounds them. */
export function startingMagnitude(site: Site, weight: Tensor<"float32">): Tensor<"float32"> {
  const norms = squaresOf(site, weight).map((square) => Math.sqrt(Math.max(square, least)));
  return tensor("float32", magnitudeDims(site.outFeatures, site.kernel.length), norms);
}

/**
 * m / n in float64, for merging.
 *
 * @param update s B A, laid out as `weight` is.
 */
export function doraFactors(
  { layout, outFeatures }: Pick<Site, "layout" | "outFeatures">,
  weight: ArrayLike<number>,
  update: Float64Array,
  magnitude: Tensor<"float32">,
): Float64Array {
  const sums = new Float64Array(outFeatures);
  const perOutput = update.length / outFeatures;
  for (let index = 0; index < update.length; index++) {
    const out = layout === "out,in" ? Math.floor(index / perOutput) : index % outFeatures;
    sums[out]! += (weight[index]! + update[index]!) ** 2;
  }
  return sums.map((sum, out) => magnitude.data[out]! / Math.sqrt(Math.max(sum, least)));
}

function scoped({ modulePath }: Site, part: string): { name: string } {
  return { name: `${modulePath}/lora/dora/${part}` };
}
