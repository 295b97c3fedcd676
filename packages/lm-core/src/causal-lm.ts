import type * as tf from '@tensorflow/tfjs-core';
import type { ParamTree } from '@flamingo-ts/kernels';
import type { KVCache } from './kv-cache';

/** What a call of a language model may bring besides the tokens. */
export interface LMContext {
  /**
   * float32 `[batch, keys]`, 1 = a real token, over all keys so far, those of this call included. Absent: no padding.
   * Padding may stand left or right; positions are counted over real tokens, so it does not shift them.
   */
  readonly keyMask?: tf.Tensor2D;
  /** Present while decoding: the tokens of this call continue what the cache holds. */
  readonly cache?: KVCache;
}

/** One block of a language model, applied to the residual stream. */
export interface LMBlock<C extends LMContext = LMContext> {
  readonly params: ParamTree;
  /** float32 `[batch, text, hiddenSize]` to the same shape. */
  apply(x: tf.Tensor3D, context: C): tf.Tensor3D;
}

/**
 * A decoder-only language model in three parts, so that others can put blocks between its blocks and call its head on
 * chosen positions alone. `C` is what its context holds; a plain language model asks for nothing but `LMContext`.
 */
export interface CausalLM<C extends LMContext = LMContext> {
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Rows of the embedding; every token id is below it. */
  readonly vocabSize: number;
  readonly params: ParamTree;
  /** int32 `[batch, text]` to float32 `[batch, text, hiddenSize]`: what enters the first block. */
  embed(tokens: tf.Tensor2D, context: C): tf.Tensor3D;
  readonly blocks: readonly LMBlock<C>[];
  /**
   * Final norm and output head. Position-wise: may be called on any rows `[1, n, hiddenSize]`.
   *
   * @returns float32 `[batch, text, vocabSize]`
   */
  logits(x: tf.Tensor3D): tf.Tensor3D;
}

/**
 * What leaves the last block: float32 `[batch, text, hiddenSize]`, to be given to `lm.logits` where it counts.
 *
 * @param tokens int32 `[batch, text]`
 */
export function hiddenStates<C extends LMContext>(lm: CausalLM<C>, tokens: tf.Tensor2D, context: C): tf.Tensor3D {
  return lm.blocks.reduce((x, block) => block.apply(x, context), lm.embed(tokens, context));
}
