// Quantized operators. A frozen quantized weight stays as it is: forward runs the fused kernel, and the gradient of the
// activations dequantizes the weight where it is used, one at a time (QLoRA; Dettmers et al. 2023). Quantized activations
// are passed straight through where they were not clipped (Bengio, Léonard & Courville 2013).
import { LowrankError } from "../../errors.ts";
import type { GraphBuilder, Value } from "../../onnx/builder.ts";
import { producers, storedValue } from "../../onnx/graph.ts";
import { describeNode, intAttribute, type Node, type StoredTensor } from "../../onnx/model.ts";
import { scaleAfter } from "../late-weights.ts";
import { type Rule, type RuleTable, rankOf, single } from "../rule.ts";

/** q = saturate(round(x / s) + z); dx = dq / s where that was in range */
const quantizeLinear: Rule = single((node, d, g) => {
  const [x, scale, zero] = node.inputs as [Value, Value, Value?];
  if (intAttribute(node, "block_size", 0) !== 0) refuse(node, "activations quantized in blocks are not supported");
  const range = ranges[g.info(node.outputs[0]!).type ?? ""];
  if (range === undefined) refuse(node, "its output is of a type that is not supported");
  const s = alongAxis(g, node, scale);
  const scaled = g.op("Round", [g.op("Div", [x, s])]);
  const q = zero ? g.op("Add", [scaled, g.op("Cast", [alongAxis(g, node, zero)], { to: 1 })]) : scaled;
  const inside = g.op("And", [
    g.op("GreaterOrEqual", [q, g.constant("float32", range[0])]),
    g.op("LessOrEqual", [q, g.constant("float32", range[1])]),
  ]);
  return [g.op("Where", [inside, g.op("Div", [d, s]), g.constant("float32", 0)])];
});

/** x = (q - z) s; dq = dx s. Frozen quantized weights never get here: they are constants. */
const dequantizeLinear: Rule = single((node, d, g) => {
  if (intAttribute(node, "block_size", 0) !== 0) refuse(node, "activations quantized in blocks are not supported");
  return [g.op("Mul", [d, alongAxis(g, node, node.inputs[1]!)])];
});

export const quantizedRules: RuleTable = {
  QuantizeLinear: quantizeLinear,
  DequantizeLinear: dequantizeLinear,
};

/** Rules of the domain com.microsoft. */
export const contribQuantizedRules: RuleTable = {
  ...quantizedRules,
  // y = a w^T + bias, w [N, K] in blocks along K; da = d w
  MatMulNBits: single((node, d, g) => [
    g.op("MatMul", [d, blockWeight(g, node, d)]),
    ...Array<null>(4).fill(null),
    node.inputs[5] ? d : null,
  ]),
  // y = quantized(a) w + bias, w [K, N]; da = d w^T, straight through the quantization of a, whose range is a's own
  DynamicQuantizeMatMul: single((node, d, g) => {
    const [, weight, scale, zero] = node.inputs as [Value, Value, Value, Value?];
    const perColumn = rankOf(g, node, scale) === 1 && g.info(scale).shape?.[0] !== 1;
    const one = (value: Value): Value => (perColumn ? value : g.op("Reshape", [value, g.constant("int64", [])]));
    const inputs = [weight, one(scale), ...(zero ? [one(zero)] : [])];
    const w = dequantized(g, inputs, d, perColumn ? { axis: 1 } : {});
    // Not MatMul: the runtime would make one product of 8-bit integers out of the two, and round the gradient.
    const da = g.op("FusedMatMul", [d, w], { transB: 1 }, { domain: "com.microsoft" });
    return [da, null, null, null, node.inputs[4] ? d : null];
  }),
};

const ranges: Readonly<Record<string, readonly [from: number, to: number]>> = {
  uint8: [0, 255],
  int8: [-128, 127],
  uint16: [0, 65535],
  int16: [-32768, 32767],
};

/** A scale or zero point, one for each place along an axis, in a shape that broadcasts to the activations. */
function alongAxis(g: GraphBuilder, node: Node, value: Value): Value {
  if (rankOf(g, node, value) === 0 || g.info(value).shape?.[0] === 1) return value;
  const rank = rankOf(g, node, node.inputs[0]!);
  const axis = intAttribute(node, "axis", 1);
  const after = axis < 0 ? -axis - 1 : rank - axis - 1;
  const axes = Array.from({ length: after }, (_, index) => index + 1);
  return after === 0 ? value : g.op("Unsqueeze", [value, g.constant("int64", axes)]);
}

/**
 * The weight [N, K] of a MatMulNBits node, dequantized while the graph runs. Its blocks are rows of a matrix with a scale
 * each: the packed bytes are read as they lie (of two 4-bit values the first is the lower half, as ONNX packs them too).
 * It is made when `after` is there.
 */
export function blockWeight(g: GraphBuilder, node: Node, after: Value): Value {
  const rows = intAttribute(node, "N", 0);
  const columns = intAttribute(node, "K", 0);
  const size = intAttribute(node, "block_size", 0);
  const bits = intAttribute(node, "bits", 4);
  if (bits !== 4 && bits !== 8) refuse(node, `weights of ${bits} bits are not supported: expected 4 or 8`);
  if (node.inputs[4]) refuse(node, "g_idx (blocks out of order) is not supported");
  if (intAttribute(node, "weight_prepacked", 0) !== 0) refuse(node, "a weight packed for one device is not supported");
  const perRow = Math.ceil(columns / size);
  const blocks = rows * perRow;
  const graph = g.build();
  const made = producers(graph);
  const stored = (index: number): StoredTensor =>
    storedValue(graph, made, node.inputs[index]!) ?? refuse(node, `its input ${index} is no constant`);
  const as = (name: string, type: StoredTensor["type"], dims: readonly number[], bytes: Uint8Array): Value =>
    g.initializer(`${node.name || node.outputs[0]}.${name}`, { type, dims, bytes });

  const type = bits === 4 ? "uint4" : "uint8";
  const weight = as("blocks", type, [blocks, size], stored(1).bytes);
  const scales = stored(2);
  const scale = as("scales", scales.type, [blocks], scales.bytes);
  const zeros = node.inputs[3] ? stored(3) : undefined;
  const packed = zeros === undefined || zeros.type === "uint8";
  const zeroBytes = packed
    ? zeroPoints(zeros?.bytes, rows, perRow, bits)
    : new Uint8Array(Math.ceil((blocks * bits) / 8));
  const zero = as("zeros", type, [blocks], zeroBytes);
  let w = dequantized(g, [weight, scale, zero], after, { axis: 0 });
  if (!packed) {
    const shift = g.op("Mul", [
      as("shifts", zeros.type, [blocks, 1], zeros.bytes),
      as("steps", scales.type, [blocks, 1], scales.bytes),
    ]);
    w = g.op("Sub", [w, shift]);
  }
  if (scales.type !== "float32") w = g.op("Cast", [w], { to: 1 });
  const whole = g.op("Reshape", [w, g.constant("int64", [rows, perRow * size])]);
  if (perRow * size === columns) return whole;
  return g.op("Slice", [whole, ...[0, columns, 1].map((value) => g.constant("int64", [value]))]);
}

/** DequantizeLinear of ONNX Runtime's domain, which takes 4-bit values in every operator set; run when `after` is there. */
function dequantized(g: GraphBuilder, inputs: readonly Value[], after: Value, attributes: { axis?: number }): Value {
  const [weight, scale, ...zero] = inputs as [Value, Value, ...Value[]];
  const late = scaleAfter(g, scale, after);
  return g.op("DequantizeLinear", [weight, late, ...zero], attributes, { domain: "com.microsoft" });
}

/** One zero point for each block: 2^(bits - 1) by default; rows of 4-bit ones start at a byte where they are stored. */
function zeroPoints(bytes: Uint8Array | undefined, rows: number, perRow: number, bits: 4 | 8): Uint8Array {
  const count = rows * perRow;
  if (bytes === undefined) return new Uint8Array(Math.ceil((count * bits) / 8)).fill(bits === 4 ? 0x88 : 0x80);
  if (bits === 8 || perRow % 2 === 0) return bytes;
  const dense = new Uint8Array(Math.ceil(count / 2));
  const stride = (perRow + 1) / 2;
  for (let index = 0; index < count; index++) {
    const place = index % perRow;
    const byte = bytes[Math.floor(index / perRow) * stride + (place >> 1)]!;
    dense[index >> 1]! |= ((byte >> (4 * (place & 1))) & 15) << (4 * (index & 1));
  }
  return dense;
}

function refuse(node: Node, why: string): never {
  throw new LowrankError("model", `${describeNode(node)}: ${why}`);
}
