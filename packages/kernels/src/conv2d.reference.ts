/** All sizes and options of a convolution. */
export interface ConvCase {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  /** Input channels. */
  readonly channels: number;
  readonly out: number;
  readonly kernel: readonly [height: number, width: number];
  readonly stride: number;
  readonly groups: number;
  readonly padding: 'same' | 'symmetric' | 'valid';
}

/** A convolution of NHWC images with OIHW kernels, one output number at a time. */
export function conv2dReference(
  x: Float64Array,
  weight: Float64Array,
  bias: Float64Array | undefined,
  c: ConvCase,
): Float64Array {
  const { batch, height, width, channels, out, stride, groups } = c;
  const [kernelHeight, kernelWidth] = c.kernel;
  const vertical = extent(height, kernelHeight, stride, c.padding);
  const horizontal = extent(width, kernelWidth, stride, c.padding);
  const inPerGroup = channels / groups;
  const y: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (let oy = 0; oy < vertical.size; oy++) {
      for (let ox = 0; ox < horizontal.size; ox++) {
        for (let o = 0; o < out; o++) {
          const firstChannel = Math.floor(o / (out / groups)) * inPerGroup;
          let sum = bias ? bias[o]! : 0;
          for (let i = 0; i < inPerGroup; i++) {
            for (let ky = 0; ky < kernelHeight; ky++) {
              for (let kx = 0; kx < kernelWidth; kx++) {
                const iy = oy * stride + ky - vertical.before;
                const ix = ox * stride + kx - horizontal.before;
                if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
                sum +=
                  x[((b * height + iy) * width + ix) * channels + firstChannel + i]! *
                  weight[((o * inPerGroup + i) * kernelHeight + ky) * kernelWidth + kx]!;
              }
            }
          }
          y.push(sum);
        }
      }
    }
  }
  return Float64Array.from(y);
}

/** Output size along an axis, and the number of zeros before it. */
function extent(n: number, kernel: number, stride: number, padding: ConvCase['padding']) {
  if (padding === 'same') {
    const size = Math.ceil(n / stride);
    return { size, before: Math.floor(Math.max((size - 1) * stride + kernel - n, 0) / 2) };
  }
  const before = padding === 'symmetric' ? (kernel - 1) / 2 : 0;
  return { size: Math.floor((n + 2 * before - kernel) / stride) + 1, before };
}
