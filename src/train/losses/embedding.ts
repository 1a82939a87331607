// Losses for models that map texts or images to vectors: what belongs together shall point the same way. Both read two sets of
// vectors, from two outputs, or from one output that holds the first set above the second.
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import type { Dim } from "../../onnx/model.ts";
import { softmaxCrossEntropy } from "./cross-entropy.ts";
import { checkNumber, type LabelInfo, type Loss, type LossNodes, total } from "./loss.ts";

export interface PairOptions {
  /** The output with the vectors [rows, features]; by default the first. */
  readonly output?: string;
  /** The output with the second set of vectors; by default `output` holds them below the first set. */
  readonly secondOutput?: string;
}

export interface ContrastiveOptions extends PairOptions {
  /** Similarities are multiplied by it (1 / temperature); default 20, as in sentence-transformers. */
  readonly scale?: number;
  /** How alike two vectors are: the cosine of their angle (default), or their dot product. */
  readonly similarity?: "cosine" | "dot";
  /** Anchors with this label count for nothing; default -100. */
  readonly ignoreIndex?: number;
}

/**
 * InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv:1807.03748), which sentence-transformers calls
 * MultipleNegativesRankingLoss: each anchor's own candidate against all other candidates of the batch,
 * mean(cross entropy(scale similarity(anchors, candidates), label)).
 *
 * Labels int64 [B] say which candidate belongs to each anchor. Vectors: one output [B + C, features], B anchors and below them
 * C candidates, or anchors [B, features] in `output` and candidates [C, features] in `secondOutput`. For plain pairs C = B and
 * the labels are 0, 1, … B - 1; further candidates are hard negatives.
 *
 * @throws LowrankError "config" unless the scale is above 0.
 * @example await train(adapted, pairs, { loss: contrastive({ output: "sentence_embedding" }) });
 */
export function contrastive(options: ContrastiveOptions = {}): Loss {
  const { output, secondOutput, scale = 20, similarity = "cosine", ignoreIndex = -100 } = options;
  checkNumber("contrastive: scale", scale, { from: 0, above: true });
  if (similarity !== "cosine" && similarity !== "dot") {
    throw new LowrankError(
      "config",
      `contrastive: similarity: expected "cosine" or "dot", got ${JSON.stringify(similarity)}`,
    );
  }
  const unit: (g: GraphBuilder, x: Value) => Normalized = similarity === "cosine" ? normalized : asItIs;
  return pairLoss({ name: "info_nce", labels: "int64", ignoreIndex, output }, secondOutput, (g, vectors, labels) => {
    const [anchors, candidates] = vectors.map((x) => unit(g, x)) as [Normalized, Normalized];
    const factor = g.constant("float32", scale);
    const products = g.op("MatMul", [anchors.value, g.op("Transpose", [candidates.value], { perm: [1, 0] })]);
    const { loss, gradient } = softmaxCrossEntropy(g, g.op("Mul", [products, factor]), labels, { ignoreIndex });
    const d = g.op("Mul", [gradient!, factor]); // [B, C]
    return {
      loss,
      first: anchors.gradient(g.op("MatMul", [d, candidates.value])),
      second: candidates.gradient(g.op("MatMul", [g.op("Transpose", [d], { perm: [1, 0] }), anchors.value])),
    };
  });
}

/**
 * Cosine embedding: 1 - cos(a, b) for pairs that belong together (label 1), max(0, cos(a, b) - margin) for those that do not
 * (label -1); the mean over the pairs. As torch.nn.CosineEmbeddingLoss.
 *
 * Labels float32 [B]. Vectors: one output [2 B, features], all a above all b, or `output` and `secondOutput` [B, features].
 *
 * @throws LowrankError "config" unless the margin (default 0) is -1 to 1.
 * @example await train(adapted, pairs, { loss: cosineEmbedding({ margin: 0.3 }) });
 */
export function cosineEmbedding({
  output,
  secondOutput,
  margin = 0,
}: PairOptions & { readonly margin?: number } = {}): Loss {
  checkNumber("cosineEmbedding: margin", margin, { from: -1, to: 1 });
  return pairLoss({ name: "cosine_embedding", labels: "float32", output }, secondOutput, (g, [a, b], labels) => {
    const dot = (x: Value, y: Value): Value => rowSum(g, g.op("Mul", [x, y])); // [B, 1]
    const epsilon = g.constant("float32", 1e-12); // PyTorch's
    const [aa, bb] = [g.op("Add", [dot(a, a), epsilon]), g.op("Add", [dot(b, b), epsilon])];
    const inverse = g.op("Reciprocal", [g.op("Sqrt", [g.op("Mul", [aa, bb])])]);
    const cosine = g.op("Mul", [dot(a, b), inverse]);
    const label = g.op("Unsqueeze", [labels, g.constant("int64", [1])]);
    const [zero, one] = [g.constant("float32", 0), g.constant("float32", 1)];
    const alike = g.op("Equal", [label, one]);
    const apart = g.op("Equal", [label, g.constant("float32", -1)]);
    const excess = g.op("Sub", [cosine, g.constant("float32", margin)]);
    const over = g.op("And", [apart, g.op("Greater", [excess, zero])]);
    const values = g.op("Where", [alike, g.op("Sub", [one, cosine]), g.op("Where", [over, excess, zero])]);
    const count = g.op("Cast", [g.op("Size", [labels])], { to: 1 });
    const sign = g.op("Where", [alike, g.constant("float32", -1), g.op("Where", [over, one, zero])]);
    const d = g.op("Div", [sign, count]); // d loss / d cos
    // d cos / d a = b / sqrt(aa bb) - cos a / aa
    const gradient = (x: Value, xx: Value, other: Value): Value => {
      const along = g.op("Mul", [g.op("Div", [cosine, xx]), x]);
      return g.op("Mul", [d, g.op("Sub", [g.op("Mul", [other, inverse]), along])]);
    };
    return { loss: g.op("Div", [total(g, values), count]), first: gradient(a, aa, b), second: gradient(b, bb, a) };
  });
}

interface Normalized {
  readonly value: Value;
  /** d loss / d x from d loss / d value. */
  gradient(d: Value): Value;
}

function asItIs(_: GraphBuilder, x: Value): Normalized {
  return { value: x, gradient: (d) => d };
}

// u = x / max(|x|, 1e-12), as torch.nn.functional.normalize;  dx = (du - u sum(u du)) / |x|
function normalized(g: GraphBuilder, x: Value): Normalized {
  const length = g.op("Sqrt", [rowSum(g, g.op("Mul", [x, x]))]);
  const divisor = g.op("Max", [length, g.constant("float32", 1e-12)]);
  const value = g.op("Div", [x, divisor]);
  return {
    value,
    gradient: (d) => {
      const along = g.op("Mul", [value, rowSum(g, g.op("Mul", [value, d]))]);
      return g.op("Div", [g.op("Sub", [d, along]), divisor]);
    },
  };
}

/** The sum over the last axis, which is kept. */
function rowSum(g: GraphBuilder, value: Value): Value {
  return g.op("ReduceSum", [value, g.constant("int64", [-1])], { keepdims: 1 });
}

interface PairNodes {
  readonly loss: Value;
  /** Gradients of the two sets of vectors. */
  readonly first: Value;
  readonly second: Value;
}

type PairBuild = (g: GraphBuilder, vectors: readonly [Value, Value], labels: Value) => PairNodes;

function pairLoss(
  about: Pick<Loss, "name" | "labels" | "output" | "ignoreIndex">,
  secondOutput: string | undefined,
  build: PairBuild,
): Loss {
  const labelsFor = (output: readonly Dim[]): LabelInfo => {
    if (output.length !== 2) {
      throw new LowrankError(
        "config",
        `loss ${about.name}: expected an output [rows, features], got ${output.length} axes; add pooling to the model`,
      );
    }
    return { shape: [secondOutput === undefined ? "label_count" : output[0]!] };
  };
  if (secondOutput !== undefined) {
    return {
      ...about,
      labelsFor,
      otherOutputs: [secondOutput],
      build: (g, output, labels) => {
        if (output === secondOutput) {
          throw new LowrankError("config", `loss ${about.name}: both outputs are ${JSON.stringify(output)}`);
        }
        const { loss, first, second } = build(g, [output, secondOutput], labels);
        return { loss, gradient: first, otherGradients: new Map([[secondOutput, second]]) };
      },
    };
  }
  return { ...about, labelsFor, build: (g, output, labels) => stacked(g, output, labels, build) };
}

/** One output that holds as many rows as there are labels, and below them the second set. */
function stacked(g: GraphBuilder, output: Value, labels: Value, build: PairBuild): LossNodes {
  const axis = g.constant("int64", [0]);
  const rows = g.op("Shape", [labels]);
  const above = g.op("Slice", [output, g.constant("int64", [0]), rows, axis]);
  const below = g.op("Slice", [output, rows, g.constant("int64", [2 ** 31 - 1]), axis]);
  const { loss, first, second } = build(g, [above, below], labels);
  return { loss, gradient: g.op("Concat", [first, second], { axis: 0 }) };
}
