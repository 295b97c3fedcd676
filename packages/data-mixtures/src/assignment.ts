/**
 * One-to-one assignment with the largest total score, by shortest augmenting paths in O(n^3) (Jonker and Volgenant
 * 1987, Crouse 2016). Of equally good assignments it returns the same one as SciPy's linear_sum_assignment: it tries
 * columns from the last to the first, and prefers a free column among equal distances.
 *
 * @param scores `scores[row][column]`, rectangular
 * @returns      [row, column] pairs in the order of rows, one per entry of the shorter side
 */
export function assignMaximum(scores: readonly (readonly number[])[]): [row: number, column: number][] {
  const rows = scores.length;
  const columns = scores[0]?.length ?? 0;
  if (columns < rows) {
    const turned = Array.from({ length: columns }, (_, c) => scores.map((row) => row[c]!));
    return assignMaximum(turned)
      .map(([c, r]): [number, number] => [r, c])
      .sort((a, b) => a[0] - b[0]);
  }
  const rowPrice = new Float64Array(rows);
  const columnPrice = new Float64Array(columns);
  const rowOf = new Int32Array(columns).fill(-1);
  const columnOf = new Int32Array(rows).fill(-1);
  for (let row = 0; row < rows; row++) {
    const path = shortestPath(scores, row, rowPrice, columnPrice, rowOf);
    rowPrice[row]! += path.length;
    for (const r of path.rows) if (r !== row) rowPrice[r]! += path.length - path.distance[columnOf[r]!]!;
    for (const c of path.columns) columnPrice[c]! -= path.length - path.distance[c]!;
    // Along the path, assigns every column to the row it was reached from.
    for (let column = path.end; ;) {
      const from = path.reachedFrom[column]!;
      rowOf[column] = from;
      const previous = columnOf[from]!;
      columnOf[from] = column;
      if (from === row) break;
      column = previous;
    }
  }
  return Array.from(columnOf, (column, row): [number, number] => [row, column]);
}

/** Dijkstra over reduced costs from an unassigned row to the nearest free column. */
function shortestPath(
  scores: readonly (readonly number[])[],
  start: number,
  rowPrice: Float64Array,
  columnPrice: Float64Array,
  rowOf: Int32Array,
) {
  const count = columnPrice.length;
  const distance = new Float64Array(count).fill(Infinity);
  const reachedFrom = new Int32Array(count).fill(-1);
  const open = Array.from({ length: count }, (_, i) => count - 1 - i);
  const rows: number[] = [];
  const columns: number[] = [];
  let length = 0;
  for (let row = start; ;) {
    rows.push(row);
    let nearest = -1;
    for (let i = 0; i < open.length; i++) {
      const column = open[i]!;
      const d = length - scores[row]![column]! - rowPrice[row]! - columnPrice[column]!;
      if (d < distance[column]!) {
        distance[column] = d;
        reachedFrom[column] = row;
      }
      const best = nearest < 0 ? Infinity : distance[open[nearest]!]!;
      const here = distance[column]!;
      if (here < best || (here === best && rowOf[column]! < 0)) nearest = i;
    }
    const end = open[nearest]!;
    length = distance[end]!;
    columns.push(end);
    // Replaces the chosen column by the last open one, which determines the order among ties.
    open[nearest] = open[open.length - 1]!;
    open.pop();
    if (rowOf[end]! < 0) return { end, length, distance, reachedFrom, rows, columns };
    row = rowOf[end]!;
  }
}
