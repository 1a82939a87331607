// "Did you mean …": the names that are nearest to one that is not there.

/** The `count` candidates that are the fewest edits away, nearest first; of paths, their ends are compared. */
export function nearest(entry: string, candidates: readonly string[], count: number): string[] {
  const wanted = entry.slice(0, 100); // distances take length x length
  const ranked = candidates.map((name) => ({ name, distance: editDistance(wanted, name.slice(-wanted.length - 2)) }));
  ranked.sort((a, b) => a.distance - b.distance);
  return ranked.slice(0, count).map(({ name }) => name);
}

/** Levenshtein 1966, by rows. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
