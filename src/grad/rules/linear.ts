// Matrix products. d: the gradient of y.
import { float, type GraphBuilder, type Value } from "../../onnx/builder.ts";
import { floatAttribute, intAttribute } from "../../onnx/model.ts";
import { type RuleTable, rankOf, single } from "../rule.ts";

export const linearRules: RuleTable = {
  // y = a b; da = d b^T, db = a^T d
  MatMul: single((node, d, g) => {
    const [a, b] = node.inputs;
    const rankA = rankOf(g, node, a!);
    const rankB = rankOf(g, node, b!);
    if (rankA === 2 && rankB === 2) {
      return [g.op("Gemm", [d, b!], { transB: 1 }), g.op("Gemm", [a!, d], { transA: 1 })];
    }
    // A vector is a matrix of one row (a) or one column (b), and d lacks that axis.
    const row = rankA === 1 ? g.op("Unsqueeze", [a!, g.constant("int64", [0])]) : a!;
    const column = rankB === 1 ? g.op("Unsqueeze", [b!, g.constant("int64", [1])]) : b!;
    const missing = [...(rankA === 1 ? [-2] : []), ...(rankB === 1 ? [-1] : [])];
    const full = missing.length > 0 ? g.op("Unsqueeze", [d, g.constant("int64", missing)]) : d;
    const da = g.op("MatMul", [full, transposed(g, column, Math.max(rankB, 2))]);
    const db = g.op("MatMul", [transposed(g, row, Math.max(rankA, 2)), full]);
    return [
      rankA === 1 ? g.op("Squeeze", [da, g.constant("int64", [-2])]) : da,
      rankB === 1 ? g.op("Squeeze", [db, g.constant("int64", [-1])]) : db,
    ];
  }),
  // y = alpha op(a) op(b) + beta c
  Gemm: single((node, d, g) => {
    const [a, b, c] = node.inputs as [Value, Value, Value | undefined];
    const alpha = floatAttribute(node, "alpha", 1);
    const beta = floatAttribute(node, "beta", 1);
    const transA = intAttribute(node, "transA", 0);
    const transB = intAttribute(node, "transB", 0);
    const product = (left: Value, transLeft: number, right: Value, transRight: number): Value =>
      g.op("Gemm", [left, right], {
        ...(alpha !== 1 && { alpha: float(alpha) }),
        ...(transLeft !== 0 && { transA: 1 }),
        ...(transRight !== 0 && { transB: 1 }),
      });
    return [
      transA === 0 ? product(d, 0, b, 1 - transB) : product(b, transB, d, 1),
      transB === 0 ? product(a, 1 - transA, d, 0) : product(d, 1, a, transA),
      c ? (beta === 1 ? d : g.op("Mul", [d, g.constant("float32", beta)])) : null,
    ];
  }),
};

/** The last two of `rank` axes swapped. */
function transposed(g: GraphBuilder, value: Value, rank: number): Value {
  const perm = [...Array(rank).keys()];
  [perm[rank - 2], perm[rank - 1]] = [rank - 1, rank - 2];
  return g.op("Transpose", [value], { perm });
}
