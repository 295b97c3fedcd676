import type * as tf from '@tensorflow/tfjs-core';
import type { ParamTree } from '@flamingo-ts/kernels';
import type { KVCache } from './kv-cache';

/** Optional inputs of a call of a language model, in addition to the tokens. */
export interface LMContext {
  /**
   * float32 `[batch, keys]`, 1 = a real token, for all keys so far including those of this call. Omit it if there is no padding.
   * Padding may be on the left or right; positions count real tokens only, so padding does not shift them.
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
 * A decoder-only language model in three parts, so that callers can insert blocks between its blocks and call its head on
 * chosen positions. `C` is the type of its context; a plain language model needs only `LMContext`.
 */
export interface CausalLM<C extends LMContext = LMContext> {
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Rows of the embedding; all token ids are below this number. */
  readonly vocabSize: number;
  readonly params: ParamTree;
  /** int32 `[batch, text]` to float32 `[batch, text, hiddenSize]`: the input of the first block. */
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
 * The output of the last block: float32 `[batch, text, hiddenSize]`, the input of `lm.logits`.
 *
 * @param tokens int32 `[batch, text]`
 */
export function hiddenStates<C extends LMContext>(lm: CausalLM<C>, tokens: tf.Tensor2D, context: C): tf.Tensor3D {
  return lm.blocks.reduce((x, block) => block.apply(x, context), lm.embed(tokens, context));
}
