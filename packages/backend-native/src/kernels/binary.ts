import * as tf from '@tensorflow/tfjs-core';
import { collapse, eachRun, type Collapsed } from '../shared/broadcast';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import type { Binary, PostOp } from '../onednn/operations';
import type { Primitive } from '../onednn/primitive';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import type { Compiled } from '../shared/primitive-cache';

/** Below this many elements a loop in JavaScript is faster than waking oneDNN's threads. */
export const FEW = 4096;

type Run = (
  a: Float32Array,
  i: number,
  da: number,
  b: Float32Array,
  j: number,
  db: number,
  out: Float32Array,
  o: number,
  n: number,
) => void;

/** The operations as loops over one run; `da` and `db` are 1, or 0 for an operand that is repeated. */
const RUNS = {
  add: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! + b[j]!;
  },
  sub: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! - b[j]!;
  },
  mul: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! * b[j]!;
  },
  div: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! / b[j]!;
  },
  max: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) {
      // Three times as fast as Math.max, and also returns NaN if either side is NaN.
      const [x, y] = [a[i]!, b[j]!];
      out[o] = x > y || x !== x ? x : y;
    }
  },
  min: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) {
      const [x, y] = [a[i]!, b[j]!];
      out[o] = x < y || x !== x ? x : y;
    }
  },
  squaredDifference: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) {
      const d = a[i]! - b[j]!;
      out[o] = d * d;
    }
  },
} satisfies Record<string, Run>;

type Operation = keyof typeof RUNS;

/**
 * oneDNN's operations. Its max and min lose a NaN on one side, so they are not used. oneDNN does not support a repeated first
 * operand, so operands are swapped where possible.
 */
const NATIVE: Partial<Record<Operation, { alg: Binary; post: PostOp[]; swapped?: PostOp[] }>> = {
  add: { alg: 'add', post: [], swapped: [] },
  mul: { alg: 'mul', post: [], swapped: [] },
  // a - b = -(b - a), and both round alike
  sub: { alg: 'sub', post: [], swapped: [{ kind: 'eltwise', alg: 'linear', alpha: -1 }] },
  div: { alg: 'div', post: [] },
  squaredDifference: {
    alg: 'sub',
    post: [{ kind: 'eltwise', alg: 'square' }],
    swapped: [{ kind: 'eltwise', alg: 'square' }],
  },
};

/** A compiled binary operation; `primitive` is undefined if oneDNN has only slow reference code for these shapes. */
class BinaryPlan implements Compiled {
  readonly primitive: Primitive | undefined;

  constructor(dnn: OneDnn, alg: Binary, post: readonly PostOp[], dims: readonly number[], second: readonly number[]) {
    const other: Layout = { dims: dims.map((n, i) => (second[i] === 0 ? 1 : n)) };
    const primitive = dnn.binary(alg, { dims }, other, { dims }, post);
    if (primitive.implementation.startsWith('ref')) primitive.destroy();
    else this.primitive = primitive;
  }

  destroy(): void {
    this.primitive?.destroy();
  }
}

function native(
  operation: Operation,
  c: Collapsed,
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  out: tf.TensorInfo,
  backend: OneDnnBackend,
): boolean {
  const known = NATIVE[operation];
  if (!known) return false;
  const whole = (strides: readonly number[]) => strides.every((s) => s !== 0);
  const swap = !whole(c.a);
  if (swap && !(known.swapped && whole(c.b))) return false;
  const [first, second] = swap ? [b, a] : [a, b];
  const strides = swap ? c.a : c.b;
  const post = swap ? known.swapped! : known.post;
  const plan = backend.compiled(
    `binary ${operation} ${swap} ${c.dims.join()} ${strides.join()}`,
    (dnn) => new BinaryPlan(dnn, known.alg, post, c.dims, strides),
  );
  plan.primitive?.run(backend.address(first), backend.address(second), backend.address(out));
  return plan.primitive !== undefined;
}

/** out = a (operation) b with broadcasting; out may be the operand that has its shape. */
export function apply(
  operation: Operation,
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  out: tf.TensorInfo,
  backend: OneDnnBackend,
): void {
  const c = collapse(out.shape, a.shape, b.shape);
  if (sizeOf(out.shape) >= FEW && native(operation, c, a, b, out, backend)) return;
  const run = RUNS[operation] as Run;
  const last = c.dims.length - 1;
  const [x, y, z] = [backend.values(a), backend.values(b), backend.values(out)];
  const [dx, dy, n] = [c.a[last]!, c.b[last]!, c.dims[last]!];
  eachRun(c, (i, j, o) => run(x, i, dx, y, j, dy, z, o, n));
}

const binary =
  (operation: Operation): NativeKernel =>
  ({ a, b }, _attrs, backend) => {
    if (!plainFloats(a, b)) return undefined;
    const out = backend.output(tf.broadcast_util.assertAndGetBroadcastShape(a!.shape, b!.shape));
    apply(operation, a!, b!, out, backend);
    return out;
  };

/** One comparison over one run, as `Run`, into booleans. */
type CompareRun = (
  a: Float32Array,
  i: number,
  da: number,
  b: Float32Array,
  j: number,
  db: number,
  out: Uint8Array,
  o: number,
  n: number,
) => void;

const COMPARE: Record<string, CompareRun> = {
  [tf.Equal]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i] === b[j] ? 1 : 0;
  },
  [tf.NotEqual]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i] !== b[j] ? 1 : 0;
  },
  [tf.Greater]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! > b[j]! ? 1 : 0;
  },
  [tf.GreaterEqual]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! >= b[j]! ? 1 : 0;
  },
  [tf.Less]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! < b[j]! ? 1 : 0;
  },
  [tf.LessEqual]: (a, i, da, b, j, db, out, o, n) => {
    for (const end = o + n; o < end; o++, i += da, j += db) out[o] = a[i]! <= b[j]! ? 1 : 0;
  },
};

const comparison =
  (run: CompareRun): NativeKernel =>
  ({ a, b }, _attrs, backend) => {
    if (!plainFloats(a, b)) return undefined;
    const shape = tf.broadcast_util.assertAndGetBroadcastShape(a!.shape, b!.shape);
    const c = collapse(shape, a!.shape, b!.shape);
    const last = c.dims.length - 1;
    const [x, y, z] = [backend.values(a!), backend.values(b!), new Uint8Array(sizeOf(shape))];
    const [dx, dy, n] = [c.a[last]!, c.b[last]!, c.dims[last]!];
    eachRun(c, (i, j, o) => run(x, i, dx, y, j, dy, z, o, n));
    return backend.makeTensorInfo(shape, 'bool', z);
  };

/** Sums of many tensors of one shape. */
const addN: NativeKernel = (inputs, _attrs, backend) => {
  const terms = Object.values(inputs);
  if (terms.length < 2 || !plainFloats(...terms)) return undefined;
  const out = backend.output(terms[0]!.shape);
  const n = sizeOf(out.shape);
  let sum = terms[0]!;
  for (const term of terms.slice(1)) {
    const c = { dims: [n], a: [1], b: [1] };
    if (n < FEW || !native('add', c, sum, term, out, backend)) {
      RUNS.add(backend.values(sum), 0, 1, backend.values(term), 0, 1, backend.values(out), 0, n);
    }
    sum = out;
  }
  return out;
};

export const binaryKernels: Record<string, NativeKernel> = {
  [tf.Add]: binary('add'),
  [tf.Sub]: binary('sub'),
  [tf.Multiply]: binary('mul'),
  [tf.RealDiv]: binary('div'),
  [tf.Maximum]: binary('max'),
  [tf.Minimum]: binary('min'),
  [tf.SquaredDifference]: binary('squaredDifference'),
  [tf.AddN]: addN,
  ...Object.fromEntries(Object.entries(COMPARE).map(([name, run]) => [name, comparison(run)])),
};
