import * as tf from '@tensorflow/tfjs-core';
import { embedding, normalVariable, Random } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '../src/index';

/** A deliberate fault of an `AveragingLM`. */
export type Defect = 'sees the next token' | 'sees padding' | 'forgets the cache' | 'head looks around';

/** The smallest language model that uses earlier tokens: adds to each token the mean of all up to it. Can be made faulty. */
export class AveragingLM implements CausalLM {
  readonly hiddenSize = 8;
  readonly vocabSize = 12;
  readonly params = { embed: normalVariable(new Random(3), [12, 8], 1) };
  readonly blocks: readonly LMBlock[];

  constructor(private readonly defect?: Defect) {
    this.blocks = [{ params: {}, apply: (x, context) => this.average(x, context) }];
  }

  embed(tokens: tf.Tensor2D): tf.Tensor3D {
    return embedding(this.params.embed, tokens) as tf.Tensor3D;
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    const seen = this.defect === 'head looks around' ? tf.cumsum(x, 1) : x;
    const [batch, text] = x.shape;
    const rows = tf.reshape(seen, [batch * text, this.hiddenSize]);
    return tf.reshape(tf.matMul(rows, this.params.embed as tf.Tensor2D, false, true), [batch, text, this.vocabSize]);
  }

  private average(x: tf.Tensor3D, { keyMask, cache }: LMContext): tf.Tensor3D {
    const keys = cache && this.defect !== 'forgets the cache' ? cache.append(0, x, x).keys : x;
    const [batch, text] = x.shape;
    const all = keys.shape[1];
    const mask = keyMask && this.defect !== 'sees padding' ? keyMask : tf.ones([batch, all]);
    const real = tf.slice(mask, [0, mask.shape[1]! - all], [batch, all]);
    const sums = tf.matMul(earlier(all), tf.mul(keys, tf.expandDims(real, 2)));
    const counts = tf.expandDims(tf.maximum(tf.cumsum(real, 1), 1), 2);
    const means = tf.slice(tf.div(sums, counts), [0, all - text, 0], [batch, text, this.hiddenSize]);
    const seen = this.defect === 'sees the next token' ? tf.reverse(means, 1) : means;
    return tf.add(x, seen) as tf.Tensor3D;
  }
}

/** `[1, n, n]`, 1 where the column is not later than the row. (tfjs' cumsum has a wrong gradient along inner axes.) */
function earlier(n: number): tf.Tensor {
  return tf.expandDims(tf.linalg.bandPart(tf.ones([n, n]), -1, 0), 0);
}
