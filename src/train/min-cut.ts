// The smallest cut of a directed graph between a source and a sink, by the largest flow (Dinic 1970: blocking flows over the
// levels of a breadth-first search). Of several smallest cuts the one nearest to the sink is given.

/** A graph under construction: vertices 0 … count - 1. */
export interface FlowGraph {
  /** An edge that can be cut for `capacity`; with infinity, one that cannot. */
  edge(from: number, to: number, capacity: number): void;
}

interface Edges {
  readonly to: number[];
  /** What each edge has left; edge i ^ 1 is edge i backwards. */
  readonly left: number[];
  readonly of: number[][];
}

/**
 * Which vertices are on the source's side: as many as a smallest cut allows.
 *
 * @param build adds the edges. Capacities are 0 or more; those of a path without a finite edge would have no cut, and must not be.
 * @example const side = minCut(3, 0, 2, (g) => { g.edge(0, 1, 5); g.edge(1, 2, 3); }); // [true, true, false]
 */
export function minCut(count: number, source: number, sink: number, build: (graph: FlowGraph) => void): boolean[] {
  const edges: Edges = { to: [], left: [], of: Array.from({ length: count }, () => []) };
  const add = (from: number, to: number, capacity: number): void => {
    edges.of[from]!.push(edges.to.length);
    edges.to.push(to);
    edges.left.push(capacity);
  };
  build({
    edge(from, to, capacity) {
      add(from, to, capacity);
      add(to, from, 0);
    },
  });
  for (;;) {
    const levels = levelsFrom(edges, source);
    if (levels[sink] === -1) break;
    const next = new Int32Array(count);
    while (augment(edges, levels, next, source, sink) > 0);
  }
  return notReaching(edges, sink);
}

/** The distance of each vertex over edges that have something left; -1 where there is no way. */
function levelsFrom({ to, left, of }: Edges, source: number): Int32Array {
  const levels = new Int32Array(of.length).fill(-1);
  levels[source] = 0;
  const queue = [source];
  for (const vertex of queue) {
    for (const edge of of[vertex]!) {
      if (left[edge]! <= 0 || levels[to[edge]!] !== -1) continue;
      levels[to[edge]!] = levels[vertex]! + 1;
      queue.push(to[edge]!);
    }
  }
  return levels;
}

/** Sends what it can along one path of rising levels; 0 when there is none left. Graphs are deep: it keeps its own stack. */
function augment({ to, left, of }: Edges, levels: Int32Array, next: Int32Array, source: number, sink: number): number {
  const path: number[] = [];
  let at = source;
  while (at !== sink) {
    const edge = of[at]![next[at]!];
    if (edge === undefined) {
      const back = path.pop();
      if (back === undefined) return 0;
      at = to[back ^ 1]!;
      next[at]!++;
    } else if (left[edge]! > 0 && levels[to[edge]!] === levels[at]! + 1) {
      path.push(edge);
      at = to[edge]!;
    } else next[at]!++;
  }
  const flow = path.reduce((least, edge) => Math.min(least, left[edge]!), Number.POSITIVE_INFINITY);
  if (!Number.isFinite(flow)) throw new Error("internal: the graph cannot be cut");
  for (const edge of path) {
    left[edge]! -= flow;
    left[edge ^ 1]! += flow;
  }
  return flow;
}

/** The vertices from which the sink cannot be reached any more. */
function notReaching({ to, left, of }: Edges, sink: number): boolean[] {
  const side = Array<boolean>(of.length).fill(true);
  side[sink] = false;
  const queue = [sink];
  for (const vertex of queue) {
    for (const edge of of[vertex]!) {
      const before = to[edge]!;
      if (side[before] !== true || left[edge ^ 1]! <= 0) continue;
      side[before] = false;
      queue.push(before);
    }
  }
  return side;
}
