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
 * What a language model offers whose head is a matrix of its own: `logits(x) = separateHeadInput(x) . w`, w being a token's row of
 * that matrix. With it tokens can learn on the side of the head too, apart from their embedding.
 */
export interface SeparateHead {
  /** float32 `[batch, text, hiddenSize]` to the same shape */
  separateHeadInput(x: tf.Tensor3D): tf.Tensor3D;
}

/**
 * A frozen language model in which a few tokens can still learn: a small matrix is added to their rows of the embedding,
 * and of the head where the model tells that both are one (`TiedHead`); where the head is apart (`SeparateHead`) another one may
 * be added to its rows. With the matrices at 0 it is the model itself.
 */
export class TrainedTokens<C extends LMContext> implements CausalLM<C> {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params;
  readonly blocks: readonly LMBlock<C>[];

  /**
   * @param ids         the tokens that learn
   * @param offsets     float32 `[ids, hiddenSize]`
   * @param headOffsets float32 `[ids, hiddenSize]`, for a head apart
   */
  constructor(
    readonly lm: CausalLM<C>,
    readonly ids: readonly number[],
    readonly offsets: tf.Variable<tf.Rank.R2>,
    readonly headOffsets?: tf.Variable<tf.Rank.R2>,
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
    if (headOffsets && !hasSeparateHead(lm)) {
      throw new Error(
        'Flamingo: separateHead is for a language model whose head is not its embedding and that says what its head ' +
          `multiplies (separateHeadInput), which this one does not${hasTiedHead(lm) ? ': its head is tied' : ''}. Leave it out.`,
      );
    }
    this.params = { lm: lm.params, offsets, headOffsets };
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
    const { lm, headOffsets } = this;
    const weight = hasTiedHead(lm) ? this.offsets : headOffsets;
    if (!weight) return lm.logits(x);
    return tf.tidy(() => {
      const input = hasTiedHead(lm) ? lm.headInput(x) : (lm as CausalLM<C> & SeparateHead).separateHeadInput(x);
      const added = linear(input, { weight }); // [batch, text, ids]
      return addColumns(lm.logits(x), added, this.ids) as tf.Tensor3D;
    });
  }
}

function hasSeparateHead(lm: object): lm is SeparateHead {
  return 'separateHeadInput' in lm;
}

function hasTiedHead(lm: object): lm is TiedHead {
  return 'headInput' in lm;
}
