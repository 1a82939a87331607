// What a row of the shape tables is, and what rows are made of.

import type { ElementType } from "./elements.ts";
import { type Dim, intAttribute, intsAttribute, type Node } from "./model.ts";

export interface TensorInfo {
  readonly type: ElementType | undefined;
  readonly shape: readonly Dim[] | undefined;
}

export type Shape = readonly Dim[];

/** What is known of values that hold shapes or axes. */
export interface Known {
  /** The integers of a constant. */
  integers(name: string | undefined): number[] | undefined;
  /** The sizes that an integer vector holds: a constant's, or those of the value that a Shape node was given. */
  sizes(name: string | undefined): Shape | undefined;
}

/** Type and shape of each output of one operator, as the ONNX operator specification has it. */
export type ShapeRow = (node: Node, inputs: readonly TensorInfo[], known: Known) => readonly TensorInfo[];

export type ShapeRows = Readonly<Record<string, ShapeRow>>;

export const unknown: TensorInfo = { type: undefined, shape: undefined };

/** Two dimensions that are surely the same size. */
export function sameDim(a: Dim | undefined, b: Dim | undefined): boolean {
  return a !== null && a !== undefined && a === b;
}

/** Two shapes that are surely the same. */
export function sameShape(a: Shape | undefined, b: Shape | undefined): boolean {
  return a !== undefined && b !== undefined && a.length === b.length && a.every((dim, axis) => sameDim(dim, b[axis]));
}

/** NumPy broadcasting of several shapes. */
export function broadcast(...shapes: readonly (Shape | undefined)[]): Shape | undefined {
  let result: Shape = [];
  for (const shape of shapes) {
    if (shape === undefined) return undefined;
    const rank = Math.max(result.length, shape.length);
    const previous = result;
    result = Array.from({ length: rank }, (_, axis) => {
      const a = axis - rank + previous.length < 0 ? 1 : previous[axis - rank + previous.length]!;
      const b = axis - rank + shape.length < 0 ? 1 : shape[axis - rank + shape.length]!;
      if (a === 1) return b;
      if (b === 1 || sameDim(a, b)) return a;
      // A size above 1 decides over an unknown one, which can then only be that size or 1.
      return typeof a === "number" ? a : typeof b === "number" ? b : null;
    });
  }
  return result;
}

/** A non-negative axis. */
export function normalizeAxis(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}

/** Axes from an attribute (older forms) or a constant input; undefined when they are absent or computed. */
export function constantAxes(node: Node, input: number, known: Known): number[] | undefined {
  return intsAttribute(node, "axes") ?? known.integers(node.inputs[input]);
}

/** The sizes that a Shape node gives: from `start` to `end`, read as slice() reads them. */
export function statedAxes(node: Node, shape: Shape): Shape {
  const end = node.attributes.has("end") ? intAttribute(node, "end", 0) : undefined;
  return shape.slice(intAttribute(node, "start", 0), end);
}
