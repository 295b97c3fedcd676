import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend, NativeKernel } from '../native-backend';
import { BlockedMatrix, SMALL_PRODUCT } from '../packed-matrix';
import { sizeOf } from '../pooled-backend';
import { activateInto, asPostOps } from './activation';
import { apply } from './binary';
import { multiply } from './matmul';

/** What a frozen weight offers; it may be packed here, or have been made on another backend. */
interface Frozen {
  readonly packed?: unknown;
  multiply(rows: tf.Tensor2D): tf.Tensor2D;
}

/** rows times the frozen weight, as data of its own. */
function multiplyFrozen(rows: tf.TensorInfo, frozen: Frozen, backend: NativeBackend): tf.TensorInfo {
  const tensor = tf.engine().makeTensorFromTensorInfo(backend.view(rows, rows.shape)) as tf.Tensor2D;
  const product = frozen.multiply(tensor);
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
  const { activation, frozen, taped } = attrs as { activation?: string; frozen?: Frozen; taped?: boolean };
  const width = x!.shape[x!.shape.length - 1]!;
  const m = sizeOf(x!.shape) / width;
  const rows = { ...x!, shape: [m, width] };
  // One call does all where oneDNN can: bias always, the activation where nobody wants what it was applied to.
  const blocked = frozen?.packed instanceof BlockedMatrix ? frozen.packed : undefined;
  const ours = blocked !== undefined || !frozen;
  const fused = activation && !taped && ours ? asPostOps(activation) : undefined;
  // A product of fewer rows is filled up with more, and the residual has no such rows.
  const adds = residual && ours && m >= SMALL_PRODUCT;
  const options = {
    bias: bias && backend.address(bias),
    post: adds ? [{ kind: 'binary', alg: 'add', other: { dims: [m, residual.shape.at(-1)!] } } as const] : fused,
    operands: adds ? [backend.address(residual)] : [],
  };
  let z2: tf.TensorInfo;
  if (!frozen) z2 = multiply(rows, weight!, false, true, backend, options);
  else if (blocked) z2 = blocked.multiply(rows, false, options);
  else {
    z2 = multiplyFrozen(rows, frozen, backend);
    // The product is ours alone: bias and activation may overwrite it.
    if (bias) apply('add', z2, bias, z2, backend);
  }
  const z = { ...z2, shape: [...x!.shape.slice(0, -1), z2.shape[1]!] };
  if (residual && !adds) apply('add', z, residual, z, backend);
  if (!activation || fused) return [z];
  const y = taped ? backend.output(z.shape) : z;
  const n = sizeOf(z.shape);
  if (n) activateInto(backend, activation, backend.address(z), backend.address(y), n);
  return taped ? [y, z] : [y];
};

export const linearKernels: Record<string, NativeKernel> = { FlamingoLinear: linear };
