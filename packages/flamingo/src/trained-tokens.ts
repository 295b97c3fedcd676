import { expectShape, linear } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import { addColumns } from './add-columns';

/**
 * A language model whose head is tied to its embedding, so that a trained token affects both: for the last hidden states x,
 * `logits(x) = headInput(x) . e`, where e is the token's embedding without positions.
 */
export interface TiedHead {
  /** float32 `[batch, text, hiddenSize]` to the same shape. */
  headInput(x: tf.Tensor3D): tf.Tensor3D;
}

/**
 * A language model whose head is a separate matrix: `logits(x) = separateHeadInput(x) . w`, where w is the token's row of
 * that matrix. It allows training of special tokens in the head too.
 */
export interface SeparateHead {
  /** float32 `[batch, text, hiddenSize]` to the same shape. */
  separateHeadInput(x: tf.Tensor3D): tf.Tensor3D;
}

/**
 * A frozen language model in which a few tokens are trained: offsets are added to their rows of the embedding, and of the
 * head if it is tied (`TiedHead`). A separate head (`SeparateHead`) may get offsets of its own. With all offsets at 0 it
 * equals the bare model.
 */
export class TrainedTokens<C extends LMContext> implements CausalLM<C> {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params;
  readonly blocks: readonly LMBlock<C>[];

  /**
   * @param ids         the trained tokens
   * @param offsets     float32 `[ids, hiddenSize]`
   * @param headOffsets float32 `[ids, hiddenSize]`, for a separate head
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
          'Add both to the tokenizer, and load the language model with a vocabulary large enough for them.',
      );
    }
    this.hiddenSize = lm.hiddenSize;
    this.vocabSize = lm.vocabSize;
    if (headOffsets && !hasSeparateHead(lm)) {
      throw new Error(
        `Flamingo: separateHead requires a language model with separateHeadInput (see SeparateHead)${hasTiedHead(lm) ? ', but its head is tied' : ''}. ` +
          'Remove separateHead from the config.',
      );
    }
    const fix = 'Make or load them with the same config.';
    expectShape('Flamingo: tokenOffsets', offsets, [ids.length, lm.hiddenSize], fix);
    if (headOffsets) expectShape('Flamingo: headOffsets', headOffsets, [ids.length, lm.hiddenSize], fix);
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
