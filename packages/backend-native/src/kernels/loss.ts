import type { NativeKernel } from '../native-backend';
import { softmaxRows } from './softmax';
import { total } from './reduce';

interface Attrs {
  readonly labelSmoothing: number;
  readonly reduction: 'mean' | 'sum';
}

/** What the losses are multiplied by: 1, or 1 / (sum of the weights), or 0 if nothing counts. */
function factor(rows: number, weights: Float32Array | undefined, reduction: Attrs['reduction']): number {
  if (reduction === 'sum') return 1;
  const count = weights ? total(weights) : rows;
  return count > 0 ? 1 / count : 0;
}

/** `{logits [n, vocab], targets int32 [n], weights? [n]}` -> `[loss [], probabilities [n, vocab]]` */
const crossEntropy: NativeKernel = ({ logits, targets, weights }, attrs, backend) => {
  const { labelSmoothing, reduction } = attrs as unknown as Attrs;
  const [n, vocab] = logits!.shape as [number, number];
  const loss = backend.output([]);
  const probabilities = backend.output([n, vocab]);
  const [x, p, target] = [backend.values(logits!), backend.values(probabilities), backend.values(targets!)];
  const weight = weights && backend.values(weights);
  if (n) softmaxRows(backend, 'softmax', x, p, n, vocab);
  let sum = 0;
  for (let r = 0; r < n; r++) {
    const start = r * vocab;
    const w = weight ? weight[r]! : 1;
    // A row that does not count may hold anything, infinities included.
    if (w === 0) {
      p.fill(0, start, start + vocab);
      continue;
    }
    // log(total) comes from the largest probability, which is far from 0: log p = x - top + log(p of top).
    let top = start;
    for (let i = start + 1; i < start + vocab; i++) if (x[i]! > x[top]!) top = i;
    const log = Math.log(p[top]!) - x[top]!;
    let value = -(1 - labelSmoothing) * (x[start + target[r]!]! + log);
    if (labelSmoothing) {
      let all = 0;
      for (let i = start; i < start + vocab; i++) all += x[i]!;
      value -= labelSmoothing * (all / vocab + log);
    }
    sum += w * value;
  }
  backend.values(loss)[0] = sum * factor(n, weight, reduction);
  return [loss, probabilities];
};

/** `{dy [], probabilities [n, vocab], targets int32 [n], weights? [n]}` -> dlogits `[n, vocab]` */
const crossEntropyGradient: NativeKernel = ({ dy, probabilities, targets, weights }, attrs, backend) => {
  const { labelSmoothing, reduction } = attrs as unknown as Attrs;
  const [n, vocab] = probabilities!.shape as [number, number];
  const dx = backend.output([n, vocab]);
  const [p, target, out] = [backend.values(probabilities!), backend.values(targets!), backend.values(dx)];
  const weight = weights && backend.values(weights);
  const scale = backend.values(dy!)[0]! * factor(n, weight, reduction);
  for (let r = 0; r < n; r++) {
    const start = r * vocab;
    const w = scale * (weight ? weight[r]! : 1);
    const even = (w * labelSmoothing) / vocab;
    for (let i = start; i < start + vocab; i++) out[i] = w * p[i]! - even;
    out[start + target[r]!]! -= w * (1 - labelSmoothing);
  }
  return [dx];
};

export const lossKernels: Record<string, NativeKernel> = {
  FlamingoCrossEntropy: crossEntropy,
  FlamingoCrossEntropyGrad: crossEntropyGradient,
};
