import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import type { Primitive } from '../onednn/primitive';
import { sizeOf } from '../shared/pooled-backend';
import type { Compiled } from '../shared/primitive-cache';
import { apply, FEW } from './binary';

/** Elements of the smallest buffer in the pool. */
const LINE = 64;

/** Product and sum in one pass; `primitive` is undefined if oneDNN has only slow reference code for these shapes. */
class GatedSumPlan implements Compiled {
  readonly primitive: Primitive | undefined;

  constructor(dnn: OneDnn, data: Layout, gate: Layout) {
    const primitive = dnn.binary('mul', data, gate, data, [{ kind: 'binary', alg: 'add', other: data }]);
    if (primitive.implementation.startsWith('ref')) primitive.destroy();
    else this.primitive = primitive;
  }

  destroy(): void {
    this.primitive?.destroy();
  }
}

/** out = y gate + plus, in one pass of oneDNN if the data is large; `data` and `by` are the layouts of y and the gate. */
function sumInto(
  backend: OneDnnBackend,
  [y, gate, plus, out]: readonly [tf.TensorInfo, tf.TensorInfo, tf.TensorInfo, tf.TensorInfo],
  data: Layout,
  by: Layout,
): void {
  const size = sizeOf(y.shape);
  const key = `gated sum ${data.dims.join()} ${by.dims.join()}`;
  const plan = size < FEW ? undefined : backend.compiled(key, (dnn) => new GatedSumPlan(dnn, data, by));
  if (plan?.primitive) {
    plan.primitive.run(backend.address(y), backend.address(gate), backend.address(out), backend.address(plus));
  } else if (size) {
    apply('mul', y, gate, out, backend);
    apply('add', out, plus, out, backend);
  }
}

/** `{y NHWC, gate [n or 1, 1, 1, c or 1], shortcut NHWC}` -> `[y gate + shortcut]` */
const gatedSum: NativeKernel = ({ y, gate, shortcut }, _attrs, backend) => {
  const out = backend.output(y!.shape);
  const [n, h, w, c] = y!.shape as [number, number, number, number];
  const [images, , , channels] = gate!.shape as [number, number, number, number];
  sumInto(backend, [y!, gate!, shortcut!, out], { dims: [n, h * w, c] }, { dims: [images, 1, channels] });
  return [out];
};

/** `{x [...], y [...], gate [1]}` -> `[x + tanh(gate) y]`: the residual branch of gated cross-attention. */
const gatedAdd: NativeKernel = ({ x, y, gate }, _attrs, backend) => {
  // A closed gate must hide even a NaN branch, and 0 * NaN is NaN.
  if (backend.values(gate!)[0] === 0) return [backend.copy(x!)];
  const out = backend.output(x!.shape);
  // One number, in a buffer of the pool because oneDNN reads it.
  const line = backend.output([LINE]);
  backend.values(line)[0] = Math.tanh(backend.values(gate!)[0]!);
  const factor = { ...line, shape: [1] };
  sumInto(backend, [y!, factor, x!, out], { dims: [sizeOf(x!.shape)] }, { dims: [1] });
  backend.disposeData(line.dataId);
  return [out];
};

/** `{x [...], gate [1]}` -> `[x]`; its gradient is `FlamingoBehindGateGrad`. */
const behindGate: NativeKernel = ({ x }, _attrs, backend) => [backend.view(x!, x!.shape)];

/** `{dy [...], gate [1]}` -> `[dy]`, or zeros where the gate is 0. */
const behindGateGrad: NativeKernel = ({ dy, gate }, _attrs, backend) => [
  backend.values(gate!)[0] === 0 ? backend.zeroOutput(dy!.shape) : backend.view(dy!, dy!.shape),
];

export const gatedSumKernels: Record<string, NativeKernel> = {
  FlamingoGatedSum: gatedSum,
  FlamingoGatedAdd: gatedAdd,
  FlamingoBehindGate: behindGate,
  FlamingoBehindGateGrad: behindGateGrad,
};
