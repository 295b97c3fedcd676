import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

interface RotaryAttrs {
  readonly headDim: number;
  /** Whether to rotate by the negative angles. */
  readonly back: boolean;
}

/** `{x [b, t, h*d], turns [1|b, t, 2n]}` -> `[y [b, t, h*d]]` */
const rotaryOp = fusedOp<RotaryAttrs>({
  name: 'FlamingoRotary',
  forward: ({ x, turns }, { headDim, back }) => {
    const [b, t, width] = x!.shape as [number, number, number];
    const heads = width / headDim;
    const n = turns!.shape[2]! / 2;
    const [cos, sin] = tf.split(tf.expandDims(turns!, 2), 2, 3); //  [1|b, t, 1, n]
    const apart = tf.reshape(x!, [b, t, heads, headDim]);
    const channels = (from: number, count: number) => tf.slice(apart, [0, 0, 0, from], [b, t, heads, count]);
    const [first, second] = [channels(0, n), channels(n, n)];
    const [left, right] = [tf.mul(second, sin!), tf.mul(first, sin!)];
    const both = back
      ? [tf.add(tf.mul(first, cos!), left), tf.sub(tf.mul(second, cos!), right)]
      : [tf.sub(tf.mul(first, cos!), left), tf.add(tf.mul(second, cos!), right)];
    const rest = 2 * n < headDim ? [channels(2 * n, headDim - 2 * n)] : [];
    return [tf.reshape(tf.concat([...both, ...rest], 3), [b, t, width])];
  },
  saveInputs: ['turns'],
  // The inverse of a rotation is its transpose.
  gradient: ([dy], { turns }, { headDim, back }) => ({ x: () => turned(dy!, turns!, { headDim, back: !back }) }),
});

function turned(x: tf.Tensor, turns: tf.Tensor, attrs: RotaryAttrs): tf.Tensor {
  return rotaryOp({ x, turns }, attrs)[0]!;
}

/**
 * Rotary position embedding (Su et al. 2021): rotates the first 2n channels of every head, channel j paired with channel
 * j + n, and leaves the others unchanged.
 *
 * @param x       float32 `[b, t, h*headDim]`
 * @param turns   float32 `[1|b, t, 2n]`: for each token the cosines of its n angles, then their sines; gets no gradient
 * @param headDim width of a head
 * @returns       float32 `[b, t, h*headDim]`
 */
export function rotary(x: tf.Tensor, turns: tf.Tensor, headDim: number): tf.Tensor3D {
  checkValue('rotary', 'headDim', headDim, rule.size);
  expectShape('rotary: x', x, ['batch', 'text', 'heads*headDim'], 'Leave the heads side by side in the last axis.');
  const [b, t, width] = x.shape as [number, number, number];
  const fix = 'Pass the cosines and sines of each token, once for all texts or separately for each.';
  expectShape('rotary: turns', turns, [turns.shape[0] === 1 ? 1 : b, t, '2n'], fix);
  const rotated = turns.shape[2]!;
  if (width % headDim || rotated % 2 || rotated > headDim) {
    throw new Error(
      `rotary: the width ${width} of x must be a multiple of headDim ${headDim}, and the number of rotated channels must ` +
        `be even and at most headDim, got ${rotated}. Check the number of heads and of angles.`,
    );
  }
  return turned(x, turns, { headDim, back: false }) as tf.Tensor3D;
}
