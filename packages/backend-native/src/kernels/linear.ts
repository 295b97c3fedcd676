import * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { BlockedMatrix, SMALL_PRODUCT } from '../frozen/blocked-matrix';
import { sizeOf } from '../shared/pooled-backend';
import { activated, asPostOps } from './activation';
import { apply } from './binary';
import { multiply } from './matmul';

/** A frozen weight, packed by this backend or created on another. */
interface Frozen {
  readonly packed?: unknown;
  multiply(rows: tf.Tensor2D, transpose: boolean): tf.Tensor2D;
}

interface Attrs {
  readonly activation?: string;
  readonly frozen?: Frozen;
  readonly taped?: boolean;
  /** The result may be held in bfloat16. */
  readonly inner?: boolean;
}

/** The product of the rows and the frozen weight, or its transpose, as a new tensor. */
function multiplyFrozen(
  rows: tf.TensorInfo,
  frozen: Frozen,
  transpose: boolean,
  backend: OneDnnBackend,
  inner = false,
): tf.TensorInfo {
  if (frozen.packed instanceof BlockedMatrix) return frozen.packed.multiply(rows, transpose, {}, inner);
  const tensor = tf.engine().makeTensorFromTensorInfo(backend.view(rows, rows.shape)) as tf.Tensor2D;
  const product = frozen.multiply(tensor, transpose);
  const kept = backend.view(product, product.shape);
  tensor.dispose();
  product.dispose();
  return kept;
}

/**
 * `{x [..., in], weight? [out, in], bias? [out], residual? [..., out]}` -> `[y [..., out], z]`; z, before the activation, only
 * if it is taped.
 */
const linear: NativeKernel = ({ x, weight, bias, residual }, attrs, backend) => {
  const { activation, frozen, taped, inner } = attrs as Attrs;
  const rows = asRows(x!);
  const m = rows.shape[0]!;
  // One call does everything if oneDNN can: the bias always, the activation unless its input is needed too.
  const blocked = frozen?.packed instanceof BlockedMatrix ? frozen.packed : undefined;
  const isOneDnn = blocked !== undefined || !frozen;
  const fused = activation && !taped && isOneDnn ? asPostOps(activation) : undefined;
  // A product of fewer rows is padded, and the residual has no rows for the padding.
  const adds = residual && isOneDnn && m >= SMALL_PRODUCT;
  const options = {
    bias: bias && backend.address(bias),
    post: adds ? [{ kind: 'binary', alg: 'add', other: { dims: [m, residual.shape.at(-1)!] } } as const] : fused,
    operands: adds ? [backend.address(residual)] : [],
  };
  let z2: tf.TensorInfo;
  if (!frozen) z2 = multiply(rows, weight!, false, true, backend, options, inner);
  else if (blocked) z2 = blocked.multiply(rows, false, options, inner);
  else {
    z2 = multiplyFrozen(rows, frozen, false, backend);
    // Nothing else uses the product: bias and activation may overwrite it.
    if (bias) apply('add', z2, bias, z2, backend);
  }
  const z = { ...z2, shape: [...x!.shape.slice(0, -1), z2.shape[1]!] };
  if (residual && !adds) apply('add', z, residual, z, backend);
  if (!activation || fused) return [z];
  const y = activated(backend, activation, z, !taped);
  return taped ? [y, z] : [y];
};

/** The same data as `[rows, last axis]`. */
function asRows(x: tf.TensorInfo): tf.TensorInfo {
  const width = x.shape[x.shape.length - 1]!;
  return { ...x, shape: [sizeOf(x.shape.slice(0, -1)), width] };
}

/** `{dz [..., out], weight? [out, in]}` -> `[dx [..., in]]` */
const inputGradient: NativeKernel = ({ dz, weight }, attrs, backend) => {
  const { frozen, inner } = attrs as Attrs;
  const rows = asRows(dz!);
  const dx = frozen
    ? multiplyFrozen(rows, frozen, true, backend, inner)
    : multiply(rows, weight!, false, false, backend, undefined, inner);
  return [{ ...dx, shape: [...dz!.shape.slice(0, -1), dx.shape[1]!] }];
};

/** `{dz [..., out], x [..., in]}` -> `[dweight [out, in]]` */
const weightGradient: NativeKernel = ({ dz, x }, _attrs, backend) => [
  multiply(asRows(dz!), asRows(x!), true, false, backend),
];

export const linearKernels: Record<string, NativeKernel> = {
  FlamingoLinear: linear,
  FlamingoLinearGrad: inputGradient,
  FlamingoLinearWeightGrad: weightGradient,
};
