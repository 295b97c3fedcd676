import { linear } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import { addColumns } from './add-columns';

/**
 * What a language model offers whose head is its embedding, so that a trained token counts on both sides: rows for which
 * `logits(x) = headInput(x) . e`, e being what `embed` gives for a token, positions left out.
 */
export interface TiedHead {
  /** float32 `[batch, text, hiddenSize]` to the same shape */
  headInput(x: tf.Tensor3D): tf.Tensor3D;
}

/**
 * A frozen language model in which a few tokens can still learn: a small matrix is added to their rows of the embedding,
 * and of the head where the model tells that both are one (`TiedHead`). With the matrix at 0 it is the model itself.
 */
export class TrainedTokens<C extends LMContext> implements CausalLM<C> {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params;
  readonly blocks: readonly LMBlock<C>[];

  /**
   * @param ids     the tokens that learn
   * @param offsets float32 `[ids, hiddenSize]`
   */
  constructor(
    readonly lm: CausalLM<C>,
    readonly ids: readonly number[],
    readonly offsets: tf.Variable<tf.Rank.R2>,
  ) {
    const stray = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= lm.vocabSize);
    if (stray !== undefined || new Set(ids).size !== ids.length) {
      throw new Error(
        `Flamingo: <image> and <EOC> must be two tokens of the language model, whose vocabSize is ${lm.vocabSize}, got ids ${ids.join(' and ')}. ` +
          'Add both to the tokenizer and make the vocabulary large enough.',
      );
    }
    this.hiddenSize = lm.hiddenSize;
    this.vocabSize = lm.vocabSize;
    this.params = { lm: lm.params, offsets };
    this.blocks = lm.blocks;
  }

  embed(tokens: tf.Tensor2D, context: C): tf.Tensor3D {
    return tf.tidy(() => {
      const [batch, text] = tokens.shape;
      const which = tf.equal(tf.reshape(tokens, [-1, 1]), tf.tensor2d([...this.ids], [1, this.ids.length], 'int32'));
      const added = tf.matMul(tf.cast(which, 'float32') as tf.Tensor2D, this.offsets);
      return tf.add(this.lm.embed(tokens, context), tf.reshape(added, [batch, text, this.hiddenSize]));
    });
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    const { lm } = this;
    if (!hasTiedHead(lm)) return lm.logits(x);
    return tf.tidy(() => {
      const added = linear(lm.headInput(x), { weight: this.offsets }); // [batch, text, ids]
      return addColumns(lm.logits(x), added, this.ids) as tf.Tensor3D;
    });
  }
}

function hasTiedHead(lm: object): lm is TiedHead {
  return 'headInput' in lm;
}
