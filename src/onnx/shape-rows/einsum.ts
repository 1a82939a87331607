// Shape of Einsum: the size of each letter of the result, from the operands that have it.
import { LowrankError } from "../../errors.ts";
import { type Equation, parseEquation } from "../einsum.ts";
import type { Dim, Node } from "../model.ts";
import { broadcast, type ShapeRows, type TensorInfo } from "../shape-row.ts";

export const einsumRows: ShapeRows = {
  Einsum: (node, inputs) => {
    const type = inputs[0]?.type;
    const equation = equationOf(node, inputs);
    if (equation === undefined) return [{ type, shape: undefined }];
    const sizes = new Map<string, Dim>();
    for (const [operand, letters] of equation.operands.entries()) {
      for (const [axis, letter] of [...letters].entries()) {
        const size = inputs[operand]?.shape?.[axis] ?? null;
        const other = sizes.get(letter);
        sizes.set(letter, other === undefined ? size : (broadcast([other], [size])?.[0] ?? null));
      }
    }
    return [{ type, shape: [...equation.result].map((letter) => sizes.get(letter) ?? null) }];
  },
};

/** Undefined where a rank that the equation needs is unknown, or the ranks that are stated do not fit it. */
function equationOf(node: Node, inputs: readonly TensorInfo[]): Equation | undefined {
  try {
    return parseEquation(
      node,
      inputs.map((info) => info.shape?.length),
    );
  } catch (error) {
    if (error instanceof LowrankError) return undefined;
    throw error;
  }
}
