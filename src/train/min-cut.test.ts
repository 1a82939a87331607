import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { minCut } from "./min-cut.ts";

type Edge = readonly [from: number, to: number, capacity: number];

const cutOf = (edges: readonly Edge[], count: number): boolean[] =>
  minCut(count, 0, count - 1, (graph) => {
    for (const edge of edges) graph.edge(...edge);
  });

const weight = (edges: readonly Edge[], side: readonly boolean[]): number =>
  edges.reduce((sum, [from, to, capacity]) => sum + (side[from]! && !side[to]! ? capacity : 0), 0);

describe("the smallest cut", () => {
  it("takes the edge that costs least, and of equal ones the nearest to the sink", () => {
    expect(
      cutOf(
        [
          [0, 1, 5],
          [1, 2, 3],
        ],
        3,
      ),
    ).toEqual([true, true, false]);
    const chain: Edge[] = [
      [0, 1, 2],
      [1, 2, 2],
      [2, 3, 7],
    ];
    expect(cutOf(chain, 4)).toEqual([true, true, false, false]);
  });

  it("sends flow back where a first path was a wrong one", () => {
    // Cormen et al., figure 26.1: the largest flow is 23.
    const edges: Edge[] = [
      [0, 1, 16],
      [0, 2, 13],
      [1, 3, 12],
      [2, 1, 4],
      [3, 2, 9],
      [2, 4, 14],
      [4, 3, 7],
      [3, 5, 20],
      [4, 5, 4],
    ];
    expect(weight(edges, cutOf(edges, 6))).toBe(23);
  });

  it("is as small as the smallest of all cuts", () => {
    const vertex = fc.integer({ min: 0, max: 5 });
    const edge = fc.tuple(vertex, vertex, fc.integer({ min: 0, max: 9 })).filter(([from, to]) => from !== to);
    fc.assert(
      fc.property(fc.array(edge, { maxLength: 14 }), (edges) => {
        let least = Number.POSITIVE_INFINITY;
        for (let bits = 0; bits < 16; bits++) {
          const side = [true, ...[0, 1, 2, 3].map((at) => ((bits >> at) & 1) === 1), false];
          least = Math.min(least, weight(edges, side));
        }
        expect(weight(edges, cutOf(edges, 6))).toBe(least);
      }),
    );
  });

  it("refuses a graph that cannot be cut", () => {
    expect(() => cutOf([[0, 1, Number.POSITIVE_INFINITY]], 2)).toThrow("internal:");
  });
});
