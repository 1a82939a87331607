// Shapes of normalization: the first output is like the input; further ones hold statistics.
import { type ElementType, elementType } from "../elements.ts";
import { intAttribute } from "../model.ts";
import { normalizeAxis, type ShapeRow, type ShapeRows, unknown } from "../shape-row.ts";

const same: ShapeRow = (_, [x]) => [x ?? unknown];

/** LayerNormalization: Mean and InvStdDev have ones where x is normalized; they are of the type that it is done in. */
const withStatistics: ShapeRow = (node, [x]) => {
  const shape = x?.shape?.map((dim, axis, { length }) =>
    axis < normalizeAxis(intAttribute(node, "axis", -1), length) ? dim : 1,
  );
  const type: ElementType | undefined = elementType(intAttribute(node, "stash_type", 1));
  return [x ?? unknown, { type, shape }, { type, shape }];
};

/** While it trains, it also gives the running mean and variance, [C] each. */
const batchNormalization: ShapeRow = (_, [x, , , mean, variance]) => [
  x ?? unknown,
  mean ?? unknown,
  variance ?? unknown,
];

export const normRows: ShapeRows = {
  BatchNormalization: batchNormalization,
  LayerNormalization: withStatistics,
  ...Object.fromEntries(
    "GroupNormalization InstanceNormalization LpNormalization LRN RMSNormalization".split(" ").map((op) => [op, same]),
  ),
};
