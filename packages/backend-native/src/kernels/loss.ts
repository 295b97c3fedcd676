import type { NativeKernel } from '../onednn/onednn-backend';
import { apply } from './binary';
import { softmaxRows } from './softmax';

interface Attrs {
  readonly labelSmoothing: number;
  readonly reduction: 'mean' | 'sum';
}

/** Factor of the losses: 1, or 1 / (sum of the weights), or 0 if all weights are 0. */
function factor(rows: number, weights: Float32Array | undefined, reduction: Attrs['reduction']): number {
  if (reduction === 'sum') return 1;
  const count = weights ? weights.reduce((sum, w) => sum + w, 0) : rows;
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
    // A row of weight 0 may hold anything, including infinities.
    if (w === 0) {
      p.fill(0, start, start + vocab);
      continue;
    }
    // log p = x + log, where log is the same for the whole row. Compute it where p is large enough to be accurate: some p is
    // at least the average.
    let large = start;
    while (p[large]! < 0.9 / vocab && large < start + vocab - 1) large++;
    const log = Math.log(p[large]!) - x[large]!;
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
  const rows = Float32Array.from({ length: n }, (_, r) => scale * (weight ? weight[r]! : 1));
  if (labelSmoothing) {
    for (let r = 0; r < n; r++) {
      const even = (rows[r]! * labelSmoothing) / vocab;
      for (let i = r * vocab; i < (r + 1) * vocab; i++) out[i] = rows[r]! * p[i]! - even;
    }
  } else {
    const perRow = backend.makeTensorInfo([n, 1], 'float32', rows);
    apply('mul', probabilities!, perRow, dx, backend);
    backend.disposeData(perRow.dataId);
  }
  for (let r = 0; r < n; r++) out[r * vocab + target[r]!]! -= rows[r]! * (1 - labelSmoothing);
  return [dx];
};

export const lossKernels: Record<string, NativeKernel> = {
  FlamingoCrossEntropy: crossEntropy,
  FlamingoCrossEntropyGrad: crossEntropyGradient,
};
