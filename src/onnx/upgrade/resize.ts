// Upsample and Resize before operator set 13, as Resize-18. Source: ONNX's Changelog.md; for the rounding of Resize-10,
// which its text leaves open, ONNX's own test data (backend/test/case/node/resize.py of its version 1.5).
import { LowrankError } from "../../errors.ts";
import { describeNode, type Node, stringAttribute } from "../model.ts";
import { type Rewrite, text, type UpgradeContext, type UpgradeRows, withAttributes, withInputs } from "./row.ts";

/** Scales were an attribute before 9, and are at least 1: place i reads floor(i / scale). */
const upsample: Rewrite = (node, context) => {
  const scales = node.attributes.get("scales");
  const input = scales?.kind === "floats" ? context.constant("float32", scales.value) : node.inputs[1]!;
  return [asymmetric({ ...node, op: "Resize" }, input, "floor")];
};

/** Resize-10 is Upsample that also makes smaller; 11 and 12 have the inputs of 18, and one mode that 18 has not. */
const resize: Rewrite = (node, context) => {
  if (context.opset > 10) return [withoutEmptyInputs(renameMode(node), context)];
  const scales = node.inputs[1]!;
  return [
    asymmetric(
      node,
      scales,
      stringAttribute(node, "mode", "nearest") === "nearest" ? rounding(node, scales, context) : "floor",
    ),
  ];
};

function asymmetric(node: Node, scales: string, nearestMode: string): Node {
  const mode = stringAttribute(node, "mode", "nearest");
  return withAttributes(withInputs(node, [node.inputs[0]!, "", scales]), ["scales"], {
    mode: text(mode === "bilinear" ? "linear" : mode),
    coordinate_transformation_mode: text("asymmetric"),
    nearest_mode: text(nearestMode),
  });
}

/** Nearest neighbours of Resize-10: rounded down where the image grows, up where it shrinks. */
function rounding(node: Node, scales: string, context: UpgradeContext): string {
  const known = context.numbers(scales);
  if (known?.every((scale) => scale >= 1)) return "floor";
  if (known?.every((scale) => scale <= 1)) return "ceil";
  const got = known === undefined ? "computed ones" : `[${known}]`;
  throw new LowrankError(
    "model",
    `${describeNode(node)}: expected constant scales that all grow or all shrink (operator set 10 rounds by that), got ${got}; export the model again`,
  );
}

/** tf_half_pixel_for_nn reads floor((i + 0.5) / scale), which is half_pixel rounded with its halves up. */
function renameMode(node: Node): Node {
  if (stringAttribute(node, "coordinate_transformation_mode", "half_pixel") !== "tf_half_pixel_for_nn") return node;
  if (stringAttribute(node, "mode", "nearest") === "nearest" && stringAttribute(node, "nearest_mode", "") === "floor") {
    return withAttributes(node, [], {
      coordinate_transformation_mode: text("half_pixel"),
      nearest_mode: text("round_prefer_ceil"),
    });
  }
  throw new LowrankError(
    "model",
    `${describeNode(node)}: tf_half_pixel_for_nn is gone since operator set 13, but for nearest neighbours rounded down; export the model again`,
  );
}

/** Exporters wrote empty tensors for what is left out. */
function withoutEmptyInputs(node: Node, context: UpgradeContext): Node {
  const isEmpty = (name: string): boolean => name !== "" && context.numbers(name)?.length === 0;
  if (!node.inputs.some(isEmpty)) return node;
  return withInputs(
    node,
    node.inputs.map((name) => (isEmpty(name) ? "" : name)),
  );
}

export const resizeRows: UpgradeRows = {
  Upsample: { since: 10, rewrite: upsample },
  Resize: { since: 13, rewrite: resize },
};
