import { describe, expect, it } from "vitest";
import { float, type GraphBuilder, graphBuilder, type PlainAttributes, type Value } from "../../onnx/builder.ts";
import { checkGradient, checkTolerance, sizesKnown } from "../testing/check.ts";
import { backward } from "../walk.ts";

interface Case {
  readonly label: string;
  readonly attributes: PlainAttributes;
  readonly dims: readonly number[];
  /** One of them, for all axes or for those that `attributes` lists. */
  readonly scales?: readonly number[];
  readonly sizes?: readonly number[];
}

const coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"];
const modes = [
  ...coordinates.map((mode) => ({ mode: "nearest", coordinate_transformation_mode: mode, nearest_mode: "floor" })),
  { mode: "nearest", coordinate_transformation_mode: "half_pixel", nearest_mode: "round_prefer_ceil" },
  ...coordinates.map((mode) => ({ mode: "linear", coordinate_transformation_mode: mode })),
  { mode: "cubic", coordinate_transformation_mode: "half_pixel", cubic_coeff_a: float(-0.75) },
];

const cases: readonly Case[] = [
  ...modes.flatMap((attributes): Case[] => {
    const label = [attributes.mode, attributes.coordinate_transformation_mode].join(", ");
    return [
      { label: `${label}, larger by scales`, attributes, dims: [1, 2, 2, 3], scales: [1, 1, 2, 2.5] },
      { label: `${label}, sizes`, attributes, dims: [1, 2, 4, 3], sizes: [1, 2, 3, 5] },
    ];
  }),
  { label: "nearest, 1d", attributes: { mode: "nearest" }, dims: [2, 2, 3], scales: [1, 1, 2] },
  { label: "linear, 1d", attributes: { mode: "linear" }, dims: [2, 2, 3], scales: [1, 1, 2] },
  { label: "linear, 3d", attributes: { mode: "linear" }, dims: [1, 1, 2, 2, 3], sizes: [1, 1, 3, 4, 2] },
  {
    label: "linear, antialias, smaller",
    attributes: { mode: "linear", antialias: 1 },
    dims: [1, 1, 6, 4],
    sizes: [1, 1, 3, 3],
  },
  { label: "axes", attributes: { mode: "linear", axes: [2, 3] }, dims: [1, 2, 2, 3], sizes: [4, 3] },
  { label: "axes from the end", attributes: { mode: "nearest", axes: [-1, -2] }, dims: [1, 2, 2, 3], scales: [2, 1] },
];

describe("Resize agrees with central differences", () => {
  it.each(cases)("$label", async ({ attributes, dims, scales, sizes }) => {
    const build = (g: GraphBuilder, [x]: readonly Value[]): Value => {
      const extent = sizes ? ["", g.constant("int64", sizes)] : [g.constant("float32", scales!)];
      return g.op("Resize", [x!, "", ...extent], attributes);
    };
    for (const known of sizesKnown) {
      const { error, precision } = await checkGradient(build, [{ dims, range: [-1, 1] }], { known, opset: 19 });
      expect(error, `sizes: ${known}, ${precision}`).toBeLessThan(checkTolerance[precision]);
    }
  });

  it("where the scales are computed", async () => {
    const build = (g: GraphBuilder, [x]: readonly Value[]): Value =>
      g.op("Resize", [x!, "", g.op("Sqrt", [g.constant("float32", [1, 1, 4, 2])])], { mode: "linear" });
    const { error, precision } = await checkGradient(build, [{ dims: [2, 1, 2, 3], range: [-1, 1] }], { opset: 18 });
    expect(error).toBeLessThan(checkTolerance[precision]);
  });
});

describe("Resize that is no linear map, or whose scale is its own choice", () => {
  it.each([
    [{ coordinate_transformation_mode: "tf_crop_and_resize" }, /expected coordinates other than tf_crop_and_resize/],
    [{ keep_aspect_ratio_policy: "not_larger" }, /expected keep_aspect_ratio_policy stretch, got not_larger/],
  ])("is refused: %o", (attributes, message) => {
    const g = graphBuilder({ opset: 18 });
    const x = g.input("x", "float32", [1, 1, 2, 2]);
    const y = g.op("Resize", [x, "", "", g.constant("int64", [1, 1, 4, 4])], attributes);
    expect(() => backward(g, new Map([[y, y]]), [x])).toThrow(message);
  });
});
