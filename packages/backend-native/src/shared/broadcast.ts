/**
 * Two operands of an elementwise operation with as few axes as possible: neighboring axes along which both operands move, or
 * the same one is repeated, are merged. A stride of 0 means that the operand is repeated along the axis.
 */
export interface Collapsed {
  readonly dims: readonly number[];
  readonly a: readonly number[];
  readonly b: readonly number[];
}

export function collapse(out: readonly number[], a: readonly number[], b: readonly number[]): Collapsed {
  const dims: number[] = [];
  const moves: [a: boolean, b: boolean][] = [];
  for (let i = 0; i < out.length; i++) {
    const size = out[i]!;
    if (size === 1) continue;
    const sizeOfA = a[i - out.length + a.length] ?? 1;
    const sizeOfB = b[i - out.length + b.length] ?? 1;
    const last = moves.length - 1;
    if (last >= 0 && moves[last]![0] === sizeOfA > 1 && moves[last]![1] === sizeOfB > 1) dims[last]! *= size;
    else {
      dims.push(size);
      moves.push([sizeOfA > 1, sizeOfB > 1]);
    }
  }
  if (!dims.length) {
    dims.push(1);
    moves.push([true, true]);
  }
  const stridesOf = (operand: 0 | 1) => {
    const strides = new Array<number>(dims.length);
    let step = 1;
    for (let i = dims.length - 1; i >= 0; i--) {
      strides[i] = moves[i]![operand] ? step : 0;
      if (moves[i]![operand]) step *= dims[i]!;
    }
    return strides;
  };
  return { dims, a: stridesOf(0), b: stridesOf(1) };
}

/** Calls `row` with the offsets of each innermost run. */
export function eachRun(c: Collapsed, row: (a: number, b: number, out: number) => void): void {
  const { dims } = c;
  const rank = dims.length;
  const length = dims[rank - 1]!;
  const index = new Array<number>(rank).fill(0);
  let [a, b, out] = [0, 0, 0];
  for (;;) {
    row(a, b, out);
    out += length;
    let axis = rank - 2;
    for (; axis >= 0; axis--) {
      a += c.a[axis]!;
      b += c.b[axis]!;
      if (++index[axis]! < dims[axis]!) break;
      a -= c.a[axis]! * dims[axis]!;
      b -= c.b[axis]! * dims[axis]!;
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}
