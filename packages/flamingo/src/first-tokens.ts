import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import type { ParamTree } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { TiedHead } from './trained-tokens';

/** A language model with a truncated vocabulary: it never predicts later tokens. */
export class FirstTokens<C extends LMContext> implements CausalLM<C> {
  readonly hiddenSize: number;
  readonly params: ParamTree;
  readonly blocks: readonly LMBlock<C>[];
  /** Present if the model has one; see `TiedHead`. */
  declare readonly headInput?: TiedHead['headInput'];

  constructor(
    private readonly lm: CausalLM<C> & Partial<TiedHead>,
    readonly vocabSize: number,
  ) {
    this.hiddenSize = lm.hiddenSize;
    this.params = lm.params;
    this.blocks = lm.blocks;
    if (lm.headInput) this.headInput = (x) => lm.headInput!(x);
  }

  embed(tokens: tf.Tensor2D, context: C): tf.Tensor3D {
    return this.lm.embed(tokens, context);
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    return tf.tidy(() => tf.slice(this.lm.logits(x), [0, 0, 0], [-1, -1, this.vocabSize]));
  }
}
