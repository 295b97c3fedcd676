import type { NativeKernel } from '../onednn/onednn-backend';

interface RotaryAttrs {
  readonly headDim: number;
  readonly back: boolean;
}

/** `{x [b, t, h*d], turns [1|b, t, 2n]}` -> `[y [b, t, h*d]]` */
const rotary: NativeKernel = ({ x, turns }, attrs, backend) => {
  const { headDim, back } = attrs as unknown as RotaryAttrs;
  const y = backend.output(x!.shape);
  const [from, to, angles] = [backend.values(x!), backend.values(y), backend.values(turns!)];
  const [, , width] = x!.shape as [number, number, number];
  const turning = turns!.shape[2]!;
  const n = turning / 2;
  const sign = back ? -1 : 1;
  if (turning < headDim) to.set(from);
  for (let row = 0, angle = 0; row < from.length; row += width, angle += turning) {
    // All texts may share one set of angles.
    if (angle === angles.length) angle = 0;
    for (let head = row; head < row + width; head += headDim) {
      for (let j = 0; j < n; j++) {
        const a = from[head + j]!;
        const b = from[head + n + j]!;
        const cos = angles[angle + j]!;
        const sin = sign * angles[angle + n + j]!;
        to[head + j] = a * cos - b * sin;
        to[head + n + j] = b * cos + a * sin;
      }
    }
  }
  return [y];
};

export const rotaryKernels: Record<string, NativeKernel> = { FlamingoRotary: rotary };
