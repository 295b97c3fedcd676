import type * as tf from '@tensorflow/tfjs-core';
import type { MatrixPrecision, NativePackedMatrix } from './frozen/matrix';
import { PackedFilter } from './frozen/packed-filter';
import { packMatrix } from './frozen/packed-matrix';
import { OneDnnBackend } from './onednn/onednn-backend';
import { mapFile } from './shared/map-file';

/** tfjs backend `native`: oneDNN for expensive operations, tfjs' CPU kernels for the rest. */
export class NativeBackend extends OneDnnBackend {
  constructor() {
    super('native');
  }

  /** Packs a frozen `[out, in]` matrix; `FrozenMatrix` of the kernels package looks for this method. */
  packMatrix(
    values: Float32Array | Uint16Array,
    shape: readonly [number, number],
    precision: MatrixPrecision,
    release?: () => void,
  ): NativePackedMatrix {
    return packMatrix(this, values, shape, precision, release);
  }

  /** Packs the kernel of a frozen convolution; `FrozenFilter` of the kernels package looks for this method. */
  packFilter(weight: tf.TensorInfo, precision: 'float32' | 'bfloat16'): PackedFilter {
    return new PackedFilter(this, weight, precision);
  }

  /** Maps bytes of a file into memory, if the system supports it; checkpoint readers look for this method. */
  readonly mapFile = mapFile;
}
