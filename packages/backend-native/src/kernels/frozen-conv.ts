import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { BF16, F32, type Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import { ARG } from '../onednn/operations';
import { ifImplemented, type Primitive } from '../onednn/primitive';
import { floatsFor, usesBfloat16, type PackedFilter } from '../frozen/packed-filter';
import { sizeOf } from '../shared/pooled-backend';
import type { Compiled } from '../shared/primitive-cache';
import { activateInto, asPostOps } from './activation';
import { choose, forwardMaker, kernelLayout, keyOf, type Convolution, type Ending } from './convolution';
import { toBfloat16 } from '../onednn/product';

/** A convolution with a frozen kernel, its bias and its activation. */
export interface FrozenLayer {
  readonly convolution: Convolution;
  readonly filter: PackedFilter;
  readonly bias?: tf.TensorInfo;
  readonly activation?: string;
}

/** A convolution whose kernel is held in the layout that it needs, so that calls rearrange nothing. */
class FrozenPlan implements Compiled {
  /** Type of the input images and of the kernel. */
  readonly type: number;
  /** Type of the output images; sums are always float32. */
  readonly result: number;
  private readonly main: Primitive;

  /** @param type and `result` are requests; both become float32 if oneDNN has no fast bfloat16 code for these shapes */
  constructor(
    dnn: OneDnn,
    private readonly convolution: Convolution,
    type: number,
    result: number,
    ending: Ending,
  ) {
    const make = (type: number, result: number) =>
      choose(forwardMaker(dnn, convolution, ending, type, result), convolution, type).primitive;
    const inBf16 = type === BF16 ? ifFast(() => make(BF16, result)) : undefined;
    this.main = inBf16 ?? make(F32, F32);
    [this.type, this.result] = inBf16 ? [BF16, result] : [F32, F32];
  }

  /** The layout that the kernel needs. */
  get kernel(): Layout {
    return { dims: kernelLayout(this.convolution).dims, type: this.type, chosen: this.main.layout(ARG.weights) };
  }

  run(x: number, kernel: number, y: number, bias?: number): void {
    if (bias === undefined) this.main.run(x, kernel, y);
    else this.main.run(x, kernel, bias, y);
  }

  destroy(): void {
    this.main.destroy();
  }
}

/** The primitive, if it exists and uses bfloat16 instructions. */
function ifFast(make: () => Primitive): Primitive | undefined {
  const primitive = ifImplemented(make);
  if (!primitive || usesBfloat16(primitive)) return primitive;
  primitive.destroy();
  return undefined;
}

/** Plans for a sequence of convolutions: each returns bfloat16 if the next one reads it. */
function plansFor(b: OneDnnBackend, layers: readonly FrozenLayer[]): FrozenPlan[] {
  const plans: FrozenPlan[] = [];
  for (const { convolution, filter, bias, activation } of [...layers].reverse()) {
    const post = activation ? asPostOps(activation) : undefined;
    // An activation that cannot be fused runs in float32 after the convolution.
    const result = plans[0]?.type === BF16 && (post || !activation) ? BF16 : F32;
    const ending = { bias: bias !== undefined, post };
    const key = `frozen conv ${filter.type} ${result} ${keyOf(convolution, ending)}`;
    plans.unshift(b.compiled(key, (dnn) => new FrozenPlan(dnn, convolution, filter.type, result, ending)));
  }
  return plans;
}

/** A sequence of convolutions. Intermediate images are freed once read, and are bfloat16 where possible. */
export function frozenConvolutions(b: OneDnnBackend, x: tf.TensorInfo, layers: readonly FrozenLayer[]): tf.TensorInfo {
  const { pool } = b;
  const { y: shape } = layers.at(-1)!.convolution;
  if (!sizeOf(shape)) return b.output(shape);
  const plans = plansFor(b, layers);
  let [from, type] = [b.address(x), F32];
  let read: Float32Array | undefined;
  let y: tf.TensorInfo | undefined;
  layers.forEach(({ convolution, filter, bias, activation }, i) => {
    const plan = plans[i]!;
    if (plan.type === BF16 && type === F32) {
      const { operand, buffer } = toBfloat16(b, [from, { dims: [sizeOf(convolution.x)] }]);
      if (read) pool.release(read);
      [from, read] = [operand[0], buffer];
    }
    const n = sizeOf(convolution.y);
    if (i === layers.length - 1) y = b.output(shape);
    const written = y ? b.values(y) : pool.allocate(floatsFor(plan.result, n));
    const to = pool.address(written);
    plan.run(from, filter.arranged(plan.kernel), to, bias && b.address(bias));
    if (activation && !asPostOps(activation)) activateInto(b, activation, to, to, n);
    if (read) pool.release(read);
    [from, type, read] = [to, plan.result, written];
  });
  return y!;
}
