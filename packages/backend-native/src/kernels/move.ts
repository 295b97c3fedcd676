import * as tf from '@tensorflow/tfjs-core';
import { collapse, eachRun } from '../shared/broadcast';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { rowMajor } from '../onednn/layout';
import { plainFloats, sizeOf } from '../shared/pooled-backend';

/** Below this many elements a loop copies faster than a call. */
const FEW = 512;

/** A block of a tensor: its start and its strides, in elements. */
interface Place {
  readonly values: Float32Array;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Copies a block; the layouts may differ. */
export function copyBlock(b: OneDnnBackend, dims: readonly number[], from: Place, to: Place): void {
  if (sizeOf(dims) >= FEW) {
    const key = `copy ${dims.join()} ${from.strides.join()} ${to.strides.join()}`;
    b.compiled(key, (dnn) => dnn.reorder({ dims, strides: from.strides }, { dims, strides: to.strides })).run(
      b.pool.address(from.values) + from.offset * 4,
      b.pool.address(to.values) + to.offset * 4,
    );
    return;
  }
  const rank = dims.length;
  const index = new Array<number>(rank).fill(0);
  let [i, o] = [from.offset, to.offset];
  for (let n = sizeOf(dims); n > 0; n--) {
    to.values[o] = from.values[i]!;
    for (let axis = rank - 1; axis >= 0; axis--) {
      i += from.strides[axis]!;
      o += to.strides[axis]!;
      if (++index[axis]! < dims[axis]!) break;
      i -= from.strides[axis]! * dims[axis]!;
      o -= to.strides[axis]! * dims[axis]!;
      index[axis] = 0;
    }
  }
}

const offsetOf = (start: readonly number[], strides: readonly number[]): number =>
  start.reduce((sum, n, i) => sum + n * strides[i]!, 0);

const transpose: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x)) return undefined;
  const perm = attrs['perm'] as number[];
  const shape = perm.map((axis) => x!.shape[axis]!);
  // Moving axes of one element past others moves no data.
  const long = perm.filter((axis) => x!.shape[axis]! > 1);
  if (long.every((axis, i) => i === 0 || axis > long[i - 1]!)) return backend.view(x!, shape);
  const strides = rowMajor(x!.shape);
  const out = backend.output(shape);
  copyBlock(
    backend,
    shape,
    { values: backend.values(x!), offset: 0, strides: perm.map((axis) => strides[axis]!) },
    { values: backend.values(out), offset: 0, strides: rowMajor(shape) },
  );
  return out;
};

const slice: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x)) return undefined;
  const [begin, size] = tf.slice_util.parseSliceParams(
    x as unknown as tf.Tensor,
    attrs['begin'] as number[],
    attrs['size'] as number[],
  ) as [number[], number[]];
  tf.slice_util.assertParamsValid(x!, begin, size);
  if (sizeOf(size) === 0) return undefined;
  const strides = rowMajor(x!.shape);
  const offset = offsetOf(begin, strides);
  const out = backend.output(size);
  const [from, to] = [backend.values(x!), backend.values(out)];
  if (tf.slice_util.isSliceContinous(x!.shape, begin, size)) to.set(from.subarray(offset, offset + to.length));
  else {
    const dims = size.length ? size : [1];
    copyBlock(backend, dims, { values: from, offset, strides }, { values: to, offset: 0, strides: rowMajor(dims) });
  }
  return out;
};

/** The gradient of concat: a slice for every part. */
const splitV: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x)) return undefined;
  const axis = tf.util.parseAxisParam(attrs['axis'] as number, x!.shape)[0]!;
  const sizes = tf.backend_util.prepareSplitSize(
    x as unknown as tf.Tensor,
    attrs['numOrSizeSplits'] as number | number[],
    axis,
  );
  const begin = x!.shape.map(() => 0);
  return sizes.map((n) => {
    const size = x!.shape.map((whole, i) => (i === axis ? n : whole));
    const part = backend.call(tf.Slice, { x: x! }, { begin: [...begin], size });
    begin[axis]! += n;
    return part;
  });
};

const pad: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x) || !x!.shape.length) return undefined;
  const paddings = attrs['paddings'] as [number, number][];
  const shape = x!.shape.map((n, i) => paddings[i]![0] + n + paddings[i]![1]);
  const out = backend.output(shape);
  const values = backend.values(out).fill(attrs['constantValue'] as number);
  const strides = rowMajor(shape);
  const start = paddings.map(([before]) => before);
  copyBlock(
    backend,
    x!.shape,
    { values: backend.values(x!), offset: 0, strides: rowMajor(x!.shape) },
    { values, offset: offsetOf(start, strides), strides },
  );
  return out;
};

const concat: NativeKernel = (inputs, attrs, backend) => {
  const all = Object.values(inputs);
  const parts = all.filter((part) => sizeOf(part.shape) > 0);
  if (parts.length < 2 || !plainFloats(...parts)) return undefined;
  const axis = tf.util.parseAxisParam(attrs['axis'] as number, all[0]!.shape)[0]!;
  const shapes = all.map((part) => part.shape);
  tf.backend_util.assertParamsConsistent(shapes, axis);
  const out = backend.output(tf.backend_util.computeOutShape(shapes, axis));
  const to = backend.values(out);
  const rows = sizeOf(out.shape.slice(0, axis));
  const width = to.length / rows;
  let column = 0;
  for (const part of parts) {
    const from = backend.values(part);
    const own = from.length / rows;
    if (rows === 1) to.set(from, column);
    else {
      copyBlock(
        backend,
        [rows, own],
        { values: from, offset: 0, strides: [own, 1] },
        { values: to, offset: column, strides: [width, 1] },
      );
    }
    column += own;
  }
  return out;
};

/** Picks rows of `width` numbers by their indices. */
export function gatherRows(x: Float32Array, rows: ArrayLike<number>, width: number, out: Float32Array): void {
  for (let r = 0, o = 0; r < rows.length; r++) {
    const start = rows[r]! * width;
    if (width >= 32) {
      out.set(x.subarray(start, start + width), o);
      o += width;
    } else for (let i = start; i < start + width; i++) out[o++] = x[i]!;
  }
}

const gather: NativeKernel = ({ x, indices }, attrs, backend) => {
  if (!plainFloats(x) || indices!.dtype !== 'int32' || sizeOf(indices!.shape) === 0) return undefined;
  const axis = tf.util.parseAxisParam(attrs['axis'] as number, x!.shape)[0]!;
  if (axis !== 0 || attrs['batchDims']) return undefined;
  const rows = backend.values(indices!) as unknown as Int32Array;
  const count = x!.shape[0]!;
  for (const row of rows) {
    tf.util.assert(row >= 0 && row < count, () => `GatherV2: the index value ${row} is not in [0, ${count - 1}]`);
  }
  const out = backend.output([...indices!.shape, ...x!.shape.slice(1)]);
  gatherRows(backend.values(x!), rows, sizeOf(x!.shape) / count, backend.values(out));
  return out;
};

const gatherRowsKernel: NativeKernel = ({ x, rows }, _attrs, backend) => {
  const width = x!.shape[1]!;
  const out = backend.output([rows!.shape[0]!, width]);
  gatherRows(backend.values(x!), backend.values(rows!), width, backend.values(out));
  return [out];
};

/** `{dy [m, d], rows int32 [m]}` -> `[count, d]`, rows with the same target are added. */
const scatterRows: NativeKernel = ({ dy, rows }, attrs, backend) => {
  const width = dy!.shape[1]!;
  const out = backend.output([attrs['count'] as number, width]);
  const [from, to, where] = [backend.values(dy!), backend.values(out).fill(0), backend.values(rows!)];
  for (let r = 0, i = 0; r < where.length; r++) {
    for (let o = where[r]! * width, end = o + width; o < end; o++, i++) to[o]! += from[i]!;
  }
  return [out];
};

/** `{into [b, capacity, w], rows [b, n, w]}` -> `[into]` with the rows written, or nothing if written in place. */
const writeRows: NativeKernel = ({ into, rows }, attrs, backend) => {
  const [b, capacity, width] = into!.shape as [number, number, number];
  const n = rows!.shape[1]!;
  const inPlace = backend.isWritable(into!);
  const out = inPlace ? into! : backend.copy(into!);
  const [from, to] = [backend.values(rows!), backend.values(out)];
  for (let i = 0; i < b; i++) {
    to.set(from.subarray(i * n * width, (i + 1) * n * width), (i * capacity + (attrs['at'] as number)) * width);
  }
  backend.changed(out);
  return inPlace ? [] : [out];
};

/** `{x [..., n], added [..., k]}` -> `[x with added in these columns]`; in place if x may be written. */
const addColumns: NativeKernel = ({ x, added }, attrs, backend) => {
  const columns = attrs['columns'] as readonly number[];
  const width = x!.shape[x!.shape.length - 1]!;
  const y = backend.isWritable(x!) ? backend.view(x!, x!.shape) : backend.copy(x!);
  const [from, to] = [backend.values(added!), backend.values(y)];
  for (let r = 0, i = 0; i < from.length; r += width) for (const column of columns) to[r + column]! += from[i++]!;
  backend.changed(y);
  return [y];
};

/** Repeats along each axis, by inserting before it an axis along which the input does not move. */
const tile: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x)) return undefined;
  const reps = attrs['reps'] as number[];
  if (reps.length !== x!.shape.length || sizeOf(reps) === 0) return undefined;
  const out = backend.output(x!.shape.map((n, i) => n * reps[i]!));
  const apart = x!.shape.flatMap((n, i) => [reps[i]!, n]);
  const c = collapse(
    apart,
    x!.shape.flatMap((n) => [1, n]),
    apart,
  );
  const [from, to] = [backend.values(x!), backend.values(out)];
  const last = c.dims.length - 1;
  const n = c.dims[last]!;
  if (c.a[last]) eachRun(c, (i, _j, o) => to.set(from.subarray(i, i + n), o));
  else eachRun(c, (i, _j, o) => to.fill(from[i]!, o, o + n));
  return out;
};

/** Casts to float32; tfjs' CPU kernel does the others. */
const cast: NativeKernel = ({ x }, attrs, backend) => {
  const known = x!.dtype === 'int32' || x!.dtype === 'bool';
  if (attrs['dtype'] !== 'float32' || !known || sizeOf(x!.shape) === 0) return undefined;
  const out = backend.output(x!.shape);
  backend.values(out).set(backend.values(x!));
  return out;
};

/** Selects by a condition, for operands of one shape. */
const select: NativeKernel = ({ condition, t, e }, _attrs, backend) => {
  const n = sizeOf(t!.shape);
  if (!plainFloats(t, e) || sizeOf(condition!.shape) !== n || sizeOf(e!.shape) !== n) return undefined;
  const out = backend.output(t!.shape);
  const [where, yes, no, to] = [condition!, t!, e!, out].map((x) => backend.values(x)) as Float32Array[];
  for (let i = 0; i < n; i++) to![i] = where![i] ? yes![i]! : no![i]!;
  return out;
};

const filled =
  (value: number): NativeKernel =>
  ({ x }, _attrs, backend) => {
    if (!plainFloats(x)) return undefined;
    const out = backend.output(x!.shape);
    backend.values(out).fill(value);
    return out;
  };

const fill: NativeKernel = (_inputs, attrs, backend) => {
  const { shape, value, dtype } = attrs as { shape: number[]; value: number | string; dtype?: string };
  if (typeof value !== 'number' || (dtype && dtype !== 'float32') || sizeOf(shape) === 0) return undefined;
  const out = backend.output(shape);
  backend.values(out).fill(value);
  return out;
};

export const moveKernels: Record<string, NativeKernel> = {
  [tf.Transpose]: transpose,
  [tf.Slice]: slice,
  [tf.SplitV]: splitV,
  [tf.PadV2]: pad,
  [tf.Concat]: concat,
  [tf.GatherV2]: gather,
  [tf.Tile]: tile,
  [tf.Cast]: cast,
  [tf.Select]: select,
  [tf.ZerosLike]: filled(0),
  [tf.OnesLike]: filled(1),
  [tf.Fill]: fill,
  FlamingoGatherRows: gatherRowsKernel,
  FlamingoScatterRows: scatterRows,
  FlamingoWriteRows: writeRows,
  FlamingoAddColumns: addColumns,
};
