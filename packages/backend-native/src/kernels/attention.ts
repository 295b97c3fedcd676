import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { BF16, F32, type Layout } from '../onednn/layout';
import { apply } from './binary';
import { dense, swapped, type Sizes } from './heads';
import { product, type Operand } from '../onednn/product';
import { softmaxGradient, softmaxRows } from './softmax';

interface Attrs {
  readonly numHeads: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly emptyRows: 'zero' | 'uniform';
  /** Absent in the gradient, which always has all keys. */
  readonly keyCount?: number;
  readonly taped?: boolean;
}

/** Replaces minus infinity, as in the composed form. */
const MASKED = -3.4e38;

/** Scores held at a time, 8 MiB: larger calls compute their queries block by block. */
const SCORES_AT_ONCE = 1 << 21;
/** Up to this many scores are kept for the gradient: recomputing them would cost more than it saves. */
const FEW_SCORES = 1 << 18;
/** Most queries of a causal block: the fewer, the fewer scores of hidden keys are computed; with fewer, products get slow. */
const CAUSAL_QUERIES = 128;
/** The number of queries of a block is a multiple of it. */
const QUERY_STEP = 32;

/** The sizes, options and inputs of one call. */
interface Call extends Sizes {
  /** Keys allocated for each example; the first s are valid. */
  readonly capacity: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly emptyRows: 'zero' | 'uniform';
  /** 1 = visible, `[b, s]`. */
  readonly keyMask: Float32Array | undefined;
  readonly bias: tf.TensorInfo | undefined;
}

/**
 * Neighboring queries that are computed together, and the keys that the last of them sees: all queries of several examples,
 * or some of one. Then the operands have no gaps between their rows, without which oneDNN falls back to slow code.
 */
interface Block {
  /** The first example, and their number. */
  readonly example: number;
  readonly examples: number;
  readonly first: number;
  readonly count: number;
  readonly keys: number;
}

function callOf({ q, k, bias, keyMask }: Record<string, tf.TensorInfo>, attrs: Attrs, backend: OneDnnBackend): Call {
  const { numHeads: h, scale, causal, emptyRows } = attrs;
  const [b, t, width] = q!.shape as [number, number, number];
  const capacity = k!.shape[1]!;
  const s = attrs.keyCount ?? capacity;
  const mask = keyMask && backend.values(keyMask);
  return { b, h, t, s, d: width / h, capacity, scale, causal, emptyRows, keyMask: mask, bias };
}

/** The queries in blocks; in one block with `whole`. */
function blocksOf({ b, h, t, s, capacity, causal }: Call, whole: boolean): Block[] {
  // Products of few queries have no faster code, so gaps between examples do no harm there.
  const joins = (s === capacity && !(causal && t > CAUSAL_QUERIES)) || t < QUERY_STEP;
  const examples = whole ? b : joins ? Math.max(1, Math.min(b, Math.floor(SCORES_AT_ONCE / (h * t * s)))) : 1;
  const fewest = causal ? t / CAUSAL_QUERIES : 1;
  const parts = whole ? 1 : Math.ceil(Math.min(t / QUERY_STEP, Math.max(fewest, (h * t * s) / SCORES_AT_ONCE)));
  const size = parts === 1 ? t : Math.ceil(t / parts / QUERY_STEP) * QUERY_STEP;
  const blocks: Block[] = [];
  for (let example = 0; example < b; example += examples) {
    for (let first = 0; first < t; first += size) {
      const count = Math.min(size, t - first);
      const keys = causal ? Math.max(1, s - t + first + count) : s;
      blocks.push({ example, examples: Math.min(examples, b - example), first, count, keys });
    }
  }
  return blocks;
}

/** Address of a tensor's data, in float32 or bfloat16. */
interface Place {
  readonly address: number;
  readonly type: number;
}

const placeOf = (backend: OneDnnBackend, x: tf.TensorInfo, isBf16: boolean): Place =>
  isBf16 ? { address: backend.bfloat16Address(x), type: BF16 } : { address: backend.address(x), type: F32 };

/** Rows of `[examples, length, h*d]`, seen as `[examples, h, count, d]`. */
function rowsOf({ h, d }: Call, { example, examples }: Block, at: Rows, { address, type }: Place): Operand {
  const { length, first, count } = at;
  // The distance of one example to the next means nothing, but oneDNN's fast code requires it to have no gap.
  const apart = examples === 1 ? count : length;
  return [
    address + (type === BF16 ? 2 : 4) * (example * length + first) * h * d,
    { dims: [examples, h, count, d], strides: [apart * h * d, d, h * d, 1], type },
  ];
}

/** Rows `first` to `first + count` of the `length` that each example has. */
interface Rows {
  readonly length: number;
  readonly first: number;
  readonly count: number;
}

/** The block's rows of `[b, t, h*d]`. */
const queriesOf = (c: Call, block: Block, place: Place): Operand =>
  rowsOf(c, block, { length: c.t, first: block.first, count: block.count }, place);

/** The keys or values that the block sees. */
const keysOf = (c: Call, block: Block, place: Place): Operand =>
  rowsOf(c, block, { length: c.capacity, first: 0, count: block.keys }, place);

/** Products with fewer multiplications per head than this gain nothing from bfloat16. */
const WORTH_CONVERTING = 1 << 20;

/** Whether a call's factors are in bfloat16: if the backend's precision is and the call is large enough. */
function usesBfloat16(backend: OneDnnBackend, { t, s, d }: Call): boolean {
  return backend.precision === 'bfloat16' && t * s * d >= WORTH_CONVERTING;
}

const scoresOf = (c: Call, { examples, count, keys }: Block): Layout => dense({ ...c, b: examples, t: count, s: keys });

const turned = ([address, layout]: Operand): Operand => [address, swapped(layout)];

/** Writes the weights of a block's queries: the softmax of their scores, or zeros in rows that see no key. Returns those rows. */
function weigh(backend: OneDnnBackend, c: Call, block: Block, q: Place, k: Place, weights: tf.TensorInfo): number[] {
  const { examples, count, keys } = block;
  const values = backend.values(weights);
  const scores: Operand = [backend.address(weights), scoresOf(c, block)];
  product(backend, queriesOf(c, block, q), turned(keysOf(c, block, k)), scores, { scale: c.scale });
  if (c.bias) addBias(backend, c, block, weights);
  const empty = hide(c, block, values);
  softmaxRows(backend, 'softmax', values, values, examples * c.h * count, keys);
  for (const row of empty) values.fill(0, row * keys, (row + 1) * keys);
  return empty;
}

/** Adds the part of the bias that belongs to the block. */
function addBias(backend: OneDnnBackend, { b, bias, s, t }: Call, block: Block, scores: tf.TensorInfo): void {
  const { example, examples, first, count, keys } = block;
  const [batch, , queries, width] = bias!.shape as [number, number, number, number];
  const whole = (batch === 1 || examples === b) && (queries === 1 || count === t) && (width === 1 || keys === s);
  if (whole) {
    apply('add', scores, bias!, scores, backend);
    return;
  }
  const begin = [batch === 1 ? 0 : example, 0, queries === 1 ? 0 : first, 0];
  const size = [batch === 1 ? 1 : examples, -1, queries === 1 ? 1 : count, width === 1 ? 1 : keys];
  const part = backend.call('Slice', { x: bias! }, { begin, size });
  apply('add', scores, part, scores, backend);
  backend.disposeData(part.dataId);
}

/** Masks the scores of keys that a query must not see, and returns the rows of `[examples, h, count]` that see no key. */
function hide(c: Call, { example, examples, first, count, keys }: Block, scores: Float32Array): number[] {
  const { h, t, s, causal, keyMask } = c;
  const empty: number[] = [];
  // A single query is at the last position and sees every key.
  if (!keyMask && !(causal && t > 1)) return empty;
  for (let n = 0; n < examples; n++) {
    const hidden = keyMask ? hiddenRuns(keyMask, (example + n) * s, keys) : [];
    for (let hh = 0; hh < h; hh++) {
      for (let i = 0; i < count; i++) {
        const row = (n * h + hh) * count + i;
        const end = causal && t > 1 ? Math.max(0, s - t + first + i + 1) : keys;
        scores.fill(MASKED, row * keys + end, (row + 1) * keys);
        let seen = end;
        for (const [from, to] of hidden) {
          if (from >= end) break;
          scores.fill(MASKED, row * keys + from, row * keys + to);
          seen -= Math.min(to, end) - from;
        }
        if (seen === 0) empty.push(row);
      }
    }
  }
  return empty;
}

/** Runs of masked keys. */
function hiddenRuns(mask: Float32Array, start: number, keys: number): [from: number, to: number][] {
  const runs: [number, number][] = [];
  for (let j = 0; j < keys; j++) {
    if (mask[start + j] === 1) continue;
    const last = runs.at(-1);
    if (last?.[1] === j) last[1]++;
    else runs.push([j, j + 1]);
  }
  return runs;
}

/** Rows of `[examples, h, count]` whose weights are all zero: in kept weights, the rows that see no key. */
function emptyRowsOf(weights: Float32Array, keys: number): number[] {
  const rows: number[] = [];
  for (let row = 0; row * keys < weights.length; row++) {
    // A row of a softmax adds up to 1.
    let sum = 0;
    for (let j = row * keys; j < (row + 1) * keys; j++) sum += weights[j]!;
    if (sum === 0) rows.push(row);
  }
  return rows;
}

/**
 * `{q [b, t, h*d], k [b, s or more, h*d], v, bias?, keyMask?}` -> `[y [b, t, h*d], weights?]`: the weights `[b, h, t, s]` only
 * if they are taped and few, or if there is a bias.
 */
const attention: NativeKernel = (inputs, attributes, backend) => {
  const attrs = attributes as unknown as Attrs;
  const c = callOf(inputs, attrs, backend);
  const { b, h, t, s } = c;
  const { shape } = inputs['q']!;
  if (!(b * h * t * s * c.d)) return [backend.zeroOutput(shape)];
  const whole = attrs.taped === true && keepsWeights(c);
  const isBf16 = usesBfloat16(backend, c);
  const [q, k, v] = ['q', 'k', 'v'].map((name) => placeOf(backend, inputs[name]!, isBf16)) as [Place, Place, Place];
  // The result's next use is a product, unless means are added first.
  const narrow = isBf16 && c.emptyRows === 'zero';
  const y = narrow ? backend.bfloat16Output(shape) : backend.output(shape);
  const out = placeOf(backend, y, narrow);
  let kept: tf.TensorInfo | undefined;
  for (const block of blocksOf(c, whole)) {
    const weights = backend.output([block.examples, h, block.count, block.keys]);
    const empty = weigh(backend, c, block, q, k, weights);
    const scores: Operand = [backend.address(weights), scoresOf(c, block)];
    product(backend, scores, keysOf(c, block, v), queriesOf(c, block, out));
    if (c.emptyRows === 'uniform') addMeans(backend, c, block, empty, inputs['v']!, y);
    if (whole) kept = weights;
    else backend.disposeData(weights.dataId);
  }
  return kept ? [y, kept] : [y];
};

/** Whether the weights are worth keeping for the gradient: computing them again takes time, keeping many takes memory. */
function keepsWeights({ b, h, t, s, bias }: Call): boolean {
  return bias !== undefined || b * h * t * s <= FEW_SCORES;
}

/** Sets rows that see no key to the mean of all values. */
function addMeans(
  backend: OneDnnBackend,
  c: Call,
  block: Block,
  empty: readonly number[],
  v: tf.TensorInfo,
  y: tf.TensorInfo,
): void {
  const { h, s, d, capacity } = c;
  const [from, to] = [backend.values(v), backend.values(y)];
  for (const row of empty) {
    const { example, head, at } = queryAt(c, block, row);
    for (let x = 0; x < d; x++) {
      let sum = 0;
      for (let j = 0; j < s; j++) sum += from[((example * capacity + j) * h + head) * d + x]!;
      to[at + x] = sum / s;
    }
  }
}

/** The query of a row of `[examples, h, count]`: its example, its head and its offset in `[b, t, h*d]`. */
function queryAt({ h, t, d }: Call, block: Block, row: number) {
  const { first, count } = block;
  const [example, head] = [block.example + Math.floor(row / count / h), Math.floor(row / count) % h];
  return { example, head, at: ((example * t + first + (row % count)) * h + head) * d };
}

/** `{dy, q, k, v, bias?, keyMask?, weights?}` -> `[dq, dk, dv, dbias?]` */
const attentionGradient: NativeKernel = (inputs, attributes, backend) => {
  const c = callOf(inputs as Record<string, tf.TensorInfo>, attributes as unknown as Attrs, backend);
  const { b, h, t, s, scale } = c;
  const { dy, q, k, v, bias, weights: kept } = inputs;
  if (!(b * h * t * s * c.d)) return [q, k, v, ...(bias ? [bias] : [])].map((x) => backend.zeroOutput(x!.shape));
  const isBf16 = usesBfloat16(backend, c);
  const [ady, aq, ak, av] = [dy, q, k, v].map((x) => placeOf(backend, x!, isBf16)) as [Place, Place, Place, Place];
  // Each query is complete after its block; the gradients to the keys add up over the blocks.
  const dq = isBf16 ? backend.bfloat16Output(q!.shape) : backend.output(q!.shape);
  const [dk, dv] = [backend.output(k!.shape), backend.output(v!.shape)] as const;
  const [adq, adk, adv] = [placeOf(backend, dq, isBf16), placeOf(backend, dk, false), placeOf(backend, dv, false)];
  let dbias: tf.TensorInfo | undefined;
  // The last block of an example sees all keys, so it comes first and writes the sums that the others add to.
  for (const block of blocksOf(c, kept !== undefined).toReversed()) {
    const shape = [block.examples, h, block.count, block.keys];
    const weights = kept ?? backend.output(shape);
    const empty = kept ? [] : weigh(backend, c, block, aq, ak, weights);
    const dscores = backend.output(shape);
    const [w, ds]: Operand[] = [weights, dscores].map((x) => [backend.address(x), scoresOf(c, block)]) as Operand[];
    const gradient = queriesOf(c, block, ady);
    product(backend, gradient, turned(keysOf(c, block, av)), ds!);
    toKeys(backend, c, block, adv, (place) => product(backend, turned(w!), gradient, place));
    if (c.emptyRows === 'uniform') {
      addFromEmptyRows(backend, c, block, kept ? emptyRowsOf(backend.values(kept), block.keys) : empty, dy!, dv);
    }
    // Rows of zeros stay zeros.
    softmaxGradient(backend, weights, dscores, block.examples * h * block.count, block.keys);
    product(backend, ds!, keysOf(c, block, ak), queriesOf(c, block, adq), { scale });
    const queries = queriesOf(c, block, aq);
    toKeys(backend, c, block, adk, (place) => product(backend, turned(ds!), queries, place, { scale }));
    if (!kept) backend.disposeData(weights.dataId);
    if (bias) dbias = sumTo(dscores, bias.shape, backend);
    else backend.disposeData(dscores.dataId);
  }
  return dbias ? [dq, dk, dv, dbias] : [dq, dk, dv];
};

/**
 * Lets `compute` write a block's gradient to its keys, and adds it to the gradients of later blocks. (With the sum as a
 * post-operation, oneDNN would fall back to slow code for these strides.)
 */
function toKeys(backend: OneDnnBackend, c: Call, block: Block, sums: Place, compute: (place: Operand) => void): void {
  const { h, d, t } = c;
  const [address, layout] = keysOf(c, block, sums);
  if (block.first + block.count === t) {
    compute([address, layout]);
    return;
  }
  const n = block.keys * h * d;
  const part = backend.pool.allocate(n);
  const from = backend.pool.address(part);
  compute([from, layout]);
  const all: Layout = { dims: [n] };
  backend.compiled(`add ${n}`, (dnn) => dnn.binary('add', all, all, all)).run(address, from, address);
  backend.pool.release(part);
}

/** Spreads the gradients of rows that see no key evenly over the values. */
function addFromEmptyRows(
  backend: OneDnnBackend,
  c: Call,
  block: Block,
  empty: readonly number[],
  dy: tf.TensorInfo,
  dv: tf.TensorInfo,
): void {
  const { h, s, d } = c;
  const [g, out] = [backend.values(dy), backend.values(dv)];
  for (const row of empty) {
    const { example, head, at } = queryAt(c, block, row);
    for (let j = 0; j < s; j++) {
      for (let x = 0; x < d; x++) out[((example * s + j) * h + head) * d + x]! += g[at + x]! / s;
    }
  }
}

/** Sums over the axes along which `shape` was broadcast; disposes of x. */
function sumTo(x: tf.TensorInfo, shape: readonly number[], backend: OneDnnBackend): tf.TensorInfo {
  let sum = x;
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] !== 1 || sum.shape[axis] === 1) continue;
    const next = backend.call('Sum', { x: sum }, { axis: [axis], keepDims: true });
    backend.disposeData(sum.dataId);
    sum = next;
  }
  return sum;
}

export const attentionKernels: Record<string, NativeKernel> = {
  FlamingoAttention: attention,
  FlamingoAttentionGrad: attentionGradient,
};
