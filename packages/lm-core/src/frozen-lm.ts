import {
  freezeParams,
  FrozenMatrix,
  FrozenTable,
  variableOf,
  widened,
  type FrozenPrecision,
  type FrozenValues,
  type Parameter,
  type ParamTree,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** How a language model is frozen. */
export interface FreezeOptions {
  /** Whether a parameter is a matrix that may be packed: one that inputs are multiplied by. */
  readonly isMatrix: (name: string, shape: readonly number[]) => boolean;
  /** Whether the head uses the weights of the embedding. */
  readonly tiedHead: boolean;
}

/** Parameters with their embedding, which may be frozen. */
type LMParams = ParamTree & { readonly embed: { readonly weight: tf.Variable<tf.Rank.R2> | FrozenTable } };

/**
 * Packs the parameters of a language model for use without training, and frees the variables that it replaces. Rows of
 * the embedding are looked up: unless `precision` is float32, it becomes a bfloat16 table, and a tied head a packed copy.
 *
 * @param head a packed head that the model already has
 */
export async function freezeLM<P extends LMParams>(
  params: P,
  head: FrozenMatrix | undefined,
  precision: FrozenPrecision,
  { isMatrix, tiedHead }: FreezeOptions,
): Promise<{ params: P; head: FrozenMatrix | undefined }> {
  const frozen = await freezeParams(params, (name, p) => isMatrix(name, p.shape), precision);
  const { weight } = frozen.embed;
  if (precision === 'float32' || weight instanceof FrozenTable) return { params: frozen, head };
  const values = (await weight.data()) as Float32Array;
  const embed = { weight: new FrozenTable(values, weight.shape) };
  const packed = tiedHead ? (head ?? new FrozenMatrix(values, weight.shape, precision)) : head;
  weight.dispose();
  return { params: { ...frozen, embed }, head: packed };
}

/** Collects the parameters of a language model while a checkpoint is read: packed as `freezeLM` does, or as variables. */
export class ParameterCollector {
  readonly params = new Map<string, Parameter>();
  /** A packed copy of the tied head. */
  head: FrozenMatrix | undefined;

  /** @param precision if given, parameters are packed as they are added */
  constructor(
    private readonly precision: FrozenPrecision | undefined,
    private readonly options: FreezeOptions,
  ) {}

  /**
   * Adds one parameter.
   *
   * @param release called when borrowed values are no longer used; without it, values that are kept are copied
   * @returns       whether the values stay in use until `release` is called
   */
  add(name: string, values: FrozenValues, shape: readonly number[], release?: () => void): boolean {
    const { precision } = this;
    const size = shape as [number, number];
    if (precision && precision !== 'float32' && name === 'embed.weight') {
      if (this.options.tiedHead) this.head = new FrozenMatrix(values, size, precision);
      this.params.set(name, new FrozenTable(values, size, release));
    } else if (precision && this.options.isMatrix(name, shape)) {
      this.params.set(name, new FrozenMatrix(values, size, precision, release));
    } else {
      this.params.set(name, variableOf(widened(release ? values.slice() : values), shape));
      return false;
    }
    return release !== undefined;
  }

  /** Frees what was collected, after an error. */
  dispose(): void {
    this.head?.dispose();
    for (const p of this.params.values()) p.dispose();
  }
}
