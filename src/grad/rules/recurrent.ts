// LSTM, GRU and RNN: backpropagation through time (Werbos 1990, "Backpropagation through time: what it does and how to do it").
// The forward pass stays the runtime's own kernel. What depends on its states alone (gates, their slopes) is computed for all
// steps at once; only the recursion of the gradient itself runs as a Scan, so that sequences may have any length.
// T steps, B batch, I inputs, H hidden size, G gates; gates in ONNX's order (LSTM i o f c, GRU z r h).
import { LowrankError } from "../../errors.ts";
import { type GraphBuilder, graphBuilder, type Value } from "../../onnx/builder.ts";
import { describeNode, floatAttribute, intAttribute, type Node, stringAttribute } from "../../onnx/model.ts";
import type { Rule, RuleTable } from "../rule.ts";
import { add, countTo, int64, mul, scalar, sizeOf, sub, where, zeros } from "./parts.ts";

export const recurrentRules: RuleTable = {
  LSTM: recurrent(4, ["Sigmoid", "Tanh", "Tanh"], lstm),
  GRU: recurrent(3, ["Sigmoid", "Tanh"], gru),
  RNN: recurrent(1, ["Tanh"], rnn),
};

/** One direction, in the order in which it is computed. */
interface Direction {
  readonly x: Value; // [T, B, I]
  readonly w: Value; // [G H, I]
  readonly r: Value; // [G H, H]
  /** Of the inputs and of the states, [G H] each; undefined where the node has none. */
  readonly biases: readonly [Value, Value] | undefined;
  /** The states after each step, and before it. */
  readonly after: Value; // [T, B, H]
  readonly before: Value; // [T, B, H]
  readonly cell0: Value; // [B, H]
  /** Gradients of the states after each step, of the last state and of the last cell. */
  readonly dAfter: Value; // [T, B, H]
  readonly dLast: Value; // [B, H]
  readonly dCell: Value; // [B, H]
  /** Whether a step is within its sequence; undefined where all are. */
  readonly within: Value | undefined; // [T, B, 1]
}

/** Gradients of one direction. */
interface Backward {
  /** Of what W x adds to each gate, and of what R h adds to it. */
  readonly dInput: Value; // [T, B, G H]
  readonly dState: Value; // [T, B, G H]
  /** What the rows of R are multiplied with, where that is not the state before: for the last gate's rows. */
  readonly lastRead?: Value; // [T, B, H]
  readonly dState0: Value; // [B, H]
  readonly dCell0?: Value; // [B, H]
}

type Cell = (g: GraphBuilder, d: Direction, node: Node, size: number) => Backward;

function recurrent(gates: number, activations: readonly string[], cell: Cell): Rule {
  return (node, dy, g) => {
    refuseVariants(node, activations);
    const [x, w, r, bias, lengths, state0, cell0] = node.inputs as [
      Value,
      Value,
      Value,
      Value?,
      Value?,
      Value?,
      Value?,
    ];
    const size = intAttribute(node, "hidden_size", 0);
    const direction = stringAttribute(node, "direction", "forward");
    const count = direction === "bidirectional" ? 2 : 1;
    // An output that nothing reads has no name: the states are computed anew then.
    const y = node.outputs[0] || g.op(node.op, node.inputs, Object.fromEntries(node.attributes));
    const blank = g.op("ConstantOfShape", [g.op("Concat", [sizeOf(g, x, 1), int64(g, size)], { axis: 0 })]);
    const within = lengths ? withinLengths(g, x, lengths) : undefined;
    const parts = Array.from({ length: count }, (_, at): Gradients => {
      const isReverse = direction === "reverse" || at === 1;
      const ordered = (value: Value): Value => (isReverse ? reversed(g, value, lengths) : value);
      const of = (value: Value | null | undefined, axis: number): Value =>
        value ? pick(g, value, at, axis, count) : blank;
      const after = ordered(of(y, 1));
      const xs = ordered(x);
      const d: Direction = {
        x: xs,
        w: of(w, 0),
        r: of(r, 0),
        biases: bias ? halves(g, of(bias, 0), gates * size) : undefined,
        after,
        before: shifted(g, of(state0, 0), after),
        cell0: of(cell0, 0),
        dAfter: dy[0] ? ordered(of(dy[0], 1)) : zeros(g, g.op("Shape", [after]), x),
        dLast: of(dy[1], 0),
        dCell: of(dy[2], 0),
        within,
      };
      return gradientsOf(g, d, cell(g, d, node, size), ordered, { gates, size });
    });
    const [first, second] = parts as [Gradients, Gradients?];
    const stacked = (name: Exclude<keyof Gradients, "x">): Value => {
      const each = parts.map((part) => g.op("Unsqueeze", [part[name]!, int64(g, 0)]));
      return each.length === 1 ? each[0]! : g.op("Concat", each, { axis: 0 });
    };
    const dx = second === undefined ? first.x : add(g, first.x, second.x);
    return [
      dx,
      stacked("w"),
      stacked("r"),
      bias ? stacked("bias") : null,
      null,
      state0 ? stacked("state0") : null,
      cell0 ? stacked("cell0") : null,
      null,
    ];
  };
}

/** Of the node's inputs, for one direction. */
interface Gradients {
  readonly x: Value;
  readonly w: Value;
  readonly r: Value;
  readonly bias: Value;
  readonly state0: Value;
  readonly cell0: Value | undefined;
}

function gradientsOf(
  g: GraphBuilder,
  { x, w, before }: Direction,
  { dInput, dState, lastRead, dState0, dCell0 }: Backward,
  ordered: (value: Value) => Value,
  { gates, size }: { readonly gates: number; readonly size: number },
): Gradients {
  const flat = (value: Value, width: number): Value => g.op("Reshape", [value, int64(g, -1, width)]);
  const all = gates * size;
  const summed = (value: Value): Value => g.op("ReduceSum", [value, int64(g, 0, 1)], { keepdims: 0 });
  const product = (d: Value, read: Value): Value => g.op("Gemm", [d, read], { transA: 1 });
  const columns = (value: Value): Value => g.op("Flatten", [value], { axis: 2 });
  const dR = (): Value => {
    if (lastRead === undefined) return product(flat(dState, all), flat(before, size));
    const [others, last] = g.ops("Split", [flat(dState, all), int64(g, all - size, size)], 2, { axis: 1 });
    const rows = [product(others!, flat(before, size)), product(last!, flat(lastRead, size))];
    return g.op("Concat", rows, { axis: 0 });
  };
  return {
    x: ordered(g.op("MatMul", [dInput, w])),
    w: product(flat(dInput, all), columns(x)),
    r: dR(),
    bias: g.op("Concat", [summed(dInput), summed(dState)], { axis: 0 }),
    state0: dState0,
    cell0: dCell0,
  };
}

// c = f c' + i n, h = o tanh(c), with sigmoid gates i o f and n = tanh:
// dc = dc_next + dh o (1 - tanh^2 c); slopes: di = dc n i', do = dh tanh(c) o', df = dc c' f', dn = dc i n'; dc' = dc f
function lstm(g: GraphBuilder, d: Direction, _node: Node, size: number): Backward {
  const [i, o, f, n] = ["Sigmoid", "Sigmoid", "Sigmoid", "Tanh"].map((activation, at) =>
    g.op(activation, [gatesOf(g, d, 4, size)[at]!]),
  ) as [Value, Value, Value, Value];
  const [, cells] = scan(g, [d.cell0], [f, mul(g, i, n)], (b, [cell], [forget, gain]) => {
    const next = add(b, mul(b, cell!, forget!), gain!);
    return { states: [next], outputs: [b.op("Identity", [next])] };
  }) as [Value, Value];
  const t = g.op("Tanh", [cells]);
  const slopes = [
    mul(g, n, sigmoidSlope(g, i)),
    mul(g, t, sigmoidSlope(g, o)),
    mul(g, shifted(g, d.cell0, cells), sigmoidSlope(g, f)),
    mul(g, i, tanhSlope(g, n)),
  ];
  const toCell = mul(g, o, tanhSlope(g, t));
  const inputs = [d.dAfter, g.op("Concat", slopes, { axis: 2 }), toCell, f, ...(d.within ? [d.within] : [])];
  const [dState0, dCell0, dGates] = scan(
    g,
    [d.dLast, d.dCell],
    inputs,
    (b, [carry, cellCarry], [dAfter, slope, cellSlope, forget, within]) => {
      const dh = add(b, carry!, dAfter!);
      const dc = add(b, cellCarry!, mul(b, dh, cellSlope!));
      const gates = mul(b, b.op("Concat", [dc, dh, dc, dc], { axis: 1 }), slope!);
      return masked(b, within, [carry!, cellCarry!], [b.op("MatMul", [gates, d.r]), mul(b, dc, forget!)], [gates]);
    },
    true,
  ) as [Value, Value, Value];
  return { dInput: dGates, dState: dGates, dState0, dCell0 };
}

// h = (1 - z) n + z h', with sigmoid gates z r. n = tanh(W x + r (R h')) with linear_before_reset, else tanh(W x + R (r h')).
// dn = dh (1 - z) n'; dz = dh (h' - n) z'; dh' = dh z + what R passes on
function gru(g: GraphBuilder, d: Direction, node: Node, size: number): Backward {
  const isLinear = intAttribute(node, "linear_before_reset", 0) !== 0;
  const fromInput = split(g, withBias(g, g.op("MatMul", [d.x, turned(g, d.w)]), d.biases?.[0]), 3, size);
  const rows = g.ops("Split", [d.r, int64(g, 2 * size, size)], 2, { axis: 0 }) as [Value, Value];
  const stateBiases =
    d.biases && (g.ops("Split", [d.biases[1], int64(g, 2 * size, size)], 2, { axis: 0 }) as [Value, Value]);
  const fromState = g.ops(
    "Split",
    [withBias(g, g.op("MatMul", [d.before, turned(g, rows[0])]), stateBiases?.[0]), int64(g, size, size)],
    2,
    { axis: 2 },
  );
  const [z, r] = [0, 1].map((at) => g.op("Sigmoid", [add(g, fromInput[at]!, fromState[at]!)])) as [Value, Value];
  const read = isLinear ? d.before : mul(g, r, d.before);
  const linear = withBias(g, g.op("MatMul", [read, turned(g, rows[1])]), stateBiases?.[1]);
  const n = g.op("Tanh", [add(g, fromInput[2]!, isLinear ? mul(g, r, linear) : linear)]);
  const toN = mul(g, oneMinus(g, z), tanhSlope(g, n));
  const toZ = mul(g, sub(g, d.before, n), sigmoidSlope(g, z));
  return isLinear
    ? gruLinear(g, d, { z, r, toN, toZ, toR: mul(g, mul(g, toN, linear), sigmoidSlope(g, r)) })
    : gruReset(g, d, { z, r, toN, toZ, toR: mul(g, d.before, sigmoidSlope(g, r)) }, rows, read);
}

interface GruSlopes {
  readonly z: Value;
  readonly r: Value;
  readonly toN: Value;
  readonly toZ: Value;
  readonly toR: Value;
}

/** Every gate's gradient is dh times what is known beforehand. */
function gruLinear(g: GraphBuilder, d: Direction, { z, r, toN, toZ, toR }: GruSlopes): Backward {
  const inputSlopes = g.op("Concat", [toZ, toR, toN], { axis: 2 });
  const stateSlopes = g.op("Concat", [toZ, toR, mul(g, toN, r)], { axis: 2 });
  const inputs = [d.dAfter, inputSlopes, stateSlopes, z, ...(d.within ? [d.within] : [])];
  const [dState0, dInput, dState] = scan(
    g,
    [d.dLast],
    inputs,
    (b, [carry], [dAfter, inputSlope, stateSlope, keep, within]) => {
      const dh = add(b, carry!, dAfter!);
      const thrice = b.op("Concat", [dh, dh, dh], { axis: 1 });
      const state = mul(b, thrice, stateSlope!);
      const next = add(b, mul(b, dh, keep!), b.op("MatMul", [state, d.r]));
      return masked(b, within, [carry!], [next], [mul(b, thrice, inputSlope!), state]);
    },
    true,
  ) as [Value, Value, Value];
  return { dInput, dState, dState0 };
}

/** The reset gate lies behind R. */
function gruReset(
  g: GraphBuilder,
  d: Direction,
  { z, r, toN, toZ, toR }: GruSlopes,
  rows: readonly [Value, Value],
  read: Value,
): Backward {
  const inputs = [d.dAfter, toZ, toR, toN, z, r, ...(d.within ? [d.within] : [])];
  const [dState0, dGates] = scan(
    g,
    [d.dLast],
    inputs,
    (b, [carry], [dAfter, slopeZ, slopeR, slopeN, keep, reset, within]) => {
      const dh = add(b, carry!, dAfter!);
      const dn = mul(b, dh, slopeN!);
      const dRead = b.op("MatMul", [dn, rows[1]]);
      const zr = b.op("Concat", [mul(b, dh, slopeZ!), mul(b, dRead, slopeR!)], { axis: 1 });
      const kept = add(b, mul(b, dh, keep!), mul(b, dRead, reset!));
      const next = add(b, kept, b.op("MatMul", [zr, rows[0]]));
      return masked(b, within, [carry!], [next], [b.op("Concat", [zr, dn], { axis: 1 })]);
    },
    true,
  ) as [Value, Value];
  return { dInput: dGates, dState: dGates, lastRead: read, dState0 };
}

// h = f(W x + R h'), f tanh or relu: d = dh f'; f' from h itself
function rnn(g: GraphBuilder, d: Direction, node: Node): Backward {
  const slope = isRelu(node)
    ? g.op("CastLike", [g.op("Greater", [d.after, scalar(g, 0, d.after)]), d.after])
    : tanhSlope(g, d.after);
  const inputs = [d.dAfter, slope, ...(d.within ? [d.within] : [])];
  const [dState0, dGates] = scan(
    g,
    [d.dLast],
    inputs,
    (b, [carry], [dAfter, slopeAt, within]) => {
      const gates = mul(b, add(b, carry!, dAfter!), slopeAt!);
      return masked(b, within, [carry!], [b.op("MatMul", [gates, d.r])], [gates]);
    },
    true,
  ) as [Value, Value];
  return { dInput: dGates, dState: dGates, dState0 };
}

interface Stepped {
  readonly states: readonly Value[];
  readonly outputs: readonly Value[];
}

/** Behind the end of a sequence the states' gradients pass unchanged, and nothing else gets one. */
function masked(
  b: GraphBuilder,
  within: Value | undefined,
  before: readonly Value[],
  states: readonly Value[],
  outputs: readonly Value[],
): Stepped {
  if (within === undefined) return { states, outputs };
  return {
    states: states.map((state, at) => where(b, within, state, before[at]!)),
    outputs: outputs.map((output) => where(b, within, output, b.constant("float32", 0))),
  };
}

/** A Scan over the first axis of `inputs`, from its end when `backward`: the last states, and each step's outputs. */
function scan(
  g: GraphBuilder,
  states: readonly Value[],
  inputs: readonly Value[],
  step: (b: GraphBuilder, states: readonly Value[], inputs: readonly Value[]) => Stepped,
  backward = false,
): Value[] {
  const name = g.freshName("through_time");
  const b = graphBuilder({ opset: g.opset, name, scope: `${name}/` });
  const declared = (value: Value, index: number, from: number, kind: string): Value => {
    const { type = "float32", shape } = g.info(value);
    return b.input(
      `${name}/${kind}_${index}`,
      type,
      shape?.slice(from) ?? (kind === "state" ? [null, null] : [null, null]),
    );
  };
  const innerStates = states.map((value, index) => declared(value, index, 0, "state"));
  const innerInputs = inputs.map((value, index) => declared(value, index, 1, "input"));
  const stepped = step(b, innerStates, innerInputs);
  for (const [index, value] of stepped.states.entries()) {
    b.output(b.op("Identity", [value]), "float32", g.info(states[index]!).shape ?? [null, null]);
  }
  for (const value of stepped.outputs) b.output(value, "float32", b.info(value).shape ?? [null, null]);
  const directions = Array<number>(inputs.length).fill(backward ? 1 : 0);
  return g.ops("Scan", [...states, ...inputs], states.length + stepped.outputs.length, {
    body: { kind: "graph", value: b.build() },
    num_scan_inputs: inputs.length,
    scan_input_directions: directions,
    scan_output_directions: Array<number>(stepped.outputs.length).fill(backward ? 1 : 0),
  });
}

/** The gates before their activations, for all steps: [T, B, H] each. */
function gatesOf(g: GraphBuilder, d: Direction, gates: number, size: number): Value[] {
  const fromInput = withBias(g, g.op("MatMul", [d.x, turned(g, d.w)]), d.biases?.[0]);
  const fromState = withBias(g, g.op("MatMul", [d.before, turned(g, d.r)]), d.biases?.[1]);
  return split(g, add(g, fromInput, fromState), gates, size);
}

function split(g: GraphBuilder, value: Value, count: number, size: number): Value[] {
  return g.ops("Split", [value, int64(g, ...Array<number>(count).fill(size))], count, { axis: 2 });
}

const turned = (g: GraphBuilder, matrix: Value): Value => g.op("Transpose", [matrix], { perm: [1, 0] });
const withBias = (g: GraphBuilder, value: Value, bias: Value | undefined): Value =>
  bias ? add(g, value, bias) : value;
const oneMinus = (g: GraphBuilder, value: Value): Value => sub(g, scalar(g, 1, value), value);
const sigmoidSlope = (g: GraphBuilder, value: Value): Value => mul(g, value, oneMinus(g, value));
const tanhSlope = (g: GraphBuilder, value: Value): Value => oneMinus(g, mul(g, value, value));

/** What belongs to one direction, without the axis of directions. */
function pick(g: GraphBuilder, value: Value, at: number, axis: number, count: number): Value {
  if (count === 1) return g.op("Squeeze", [value, int64(g, axis)]);
  return g.op("Gather", [value, g.constant("int64", at)], { axis });
}

function halves(g: GraphBuilder, value: Value, size: number): [Value, Value] {
  return g.ops("Split", [value, int64(g, size, size)], 2, { axis: 0 }) as [Value, Value];
}

/** The values before each step: `first`, then all but the last. */
function shifted(g: GraphBuilder, first: Value, values: Value): Value {
  const earlier = g.op("Slice", [values, int64(g, 0), int64(g, -1), int64(g, 0)]);
  return g.op("Concat", [g.op("Unsqueeze", [first, int64(g, 0)]), earlier], { axis: 0 });
}

/** The other way round in time, each sequence within its own length. */
function reversed(g: GraphBuilder, value: Value, lengths: Value | undefined): Value {
  if (lengths) {
    const long = g.op("Cast", [lengths], { to: 7 });
    return g.op("ReverseSequence", [value, long], { time_axis: 0, batch_axis: 1 });
  }
  return g.op("Slice", [value, int64(g, -1), int64(g, -Number.MAX_SAFE_INTEGER), int64(g, 0), int64(g, -1)]);
}

function withinLengths(g: GraphBuilder, x: Value, lengths: Value): Value {
  const steps = g.op("Unsqueeze", [countTo(g, sizeOf(g, x, 0)), int64(g, 1)]);
  const within = g.op("Less", [steps, g.op("Cast", [lengths], { to: 7 })]);
  return g.op("Unsqueeze", [within, int64(g, 2)]);
}

function isRelu(node: Node): boolean {
  return activationsOf(node)?.[0]?.toLowerCase() === "relu";
}

function activationsOf(node: Node): string[] | undefined {
  const stated = node.attributes.get("activations");
  return stated?.kind === "strings" ? stated.value.map((text) => new TextDecoder().decode(text)) : undefined;
}

/** Throws LowrankError "model" that lists what of a node's form has no gradient. */
function refuseVariants(node: Node, usual: readonly string[]): void {
  const stated = activationsOf(node) ?? [];
  const isUsual = stated.every((name, at) => name.toLowerCase() === usual[at % usual.length]!.toLowerCase());
  const isReluRnn = node.op === "RNN" && stated.every((name) => name.toLowerCase() === "relu");
  const faults = [
    ...(isUsual || isReluRnn ? [] : [`activations ${stated.join(", ")} (expected ${usual.join(", ")})`]),
    ...(floatAttribute(node, "clip", 0) === 0 ? [] : ["clip"]),
    ...(intAttribute(node, "input_forget", 0) === 0 ? [] : ["input_forget"]),
    ...(intAttribute(node, "layout", 0) === 0 ? [] : ["layout 1"]),
    ...(node.inputs[7] ? ["peepholes"] : []),
  ];
  if (faults.length === 0) return;
  throw new LowrankError(
    "model",
    `${describeNode(node)}: no gradient goes through it with ${faults.join(", ")}: adapt only layers behind it`,
  );
}
