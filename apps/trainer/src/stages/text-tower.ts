import { embedding, layerNorm, linear, normalVariable, constantVariable, type Random } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** Longer alt texts are truncated to this many words. */
const MAX_WORDS = 24;

export type TextTowerParams = {
  /** `[words, textHiddenSize]` */
  readonly words: tf.Variable<tf.Rank.R2>;
  readonly norm: { readonly weight: tf.Variable<tf.Rank.R1>; readonly bias: tf.Variable<tf.Rank.R1> };
  readonly mlpUp: { readonly weight: tf.Variable<tf.Rank.R2>; readonly bias: tf.Variable<tf.Rank.R1> };
  readonly mlpDown: { readonly weight: tf.Variable<tf.Rank.R2> };
  readonly skip: { readonly weight: tf.Variable<tf.Rank.R2> };
};

/**
 * The text encoder of contrastive pretraining, discarded afterward: the sum of one vector per word, and an MLP. Flamingo
 * (appendix B.1.3) uses a BERT. Alt texts are bags of words here, from which a larger model would learn no more.
 */
export class TextTower {
  private readonly index: ReadonlyMap<string, number>;

  /** @param words the vocabulary, in a fixed order; words beyond it are ignored */
  constructor(
    readonly words: readonly string[],
    readonly params: TextTowerParams,
  ) {
    this.index = new Map(words.map((w, i) => [w, i]));
  }

  static create(words: readonly string[], hiddenSize: number, jointSize: number, random: Random): TextTower {
    const matrix = (out: number, into: number) =>
      normalVariable(random, [out, into], into ** -0.5) as tf.Variable<tf.Rank.R2>;
    const vector = (n: number, value: number) => constantVariable([n], value) as tf.Variable<tf.Rank.R1>;
    return new TextTower(words, {
      words: normalVariable(random, [words.length, hiddenSize], 1) as tf.Variable<tf.Rank.R2>,
      norm: { weight: vector(hiddenSize, 1), bias: vector(hiddenSize, 0) },
      mlpUp: { weight: matrix(hiddenSize, hiddenSize), bias: vector(hiddenSize, 0) },
      mlpDown: { weight: matrix(jointSize, hiddenSize) },
      skip: { weight: matrix(jointSize, hiddenSize) },
    });
  }

  /**
   * @param texts bags of words
   * @returns float32 [texts, jointSize], not normalized
   */
  apply(texts: readonly (readonly string[])[]): tf.Tensor2D {
    return tf.tidy(() => {
      const ids = new Int32Array(texts.length * MAX_WORDS);
      const share = new Float32Array(texts.length * MAX_WORDS);
      texts.forEach((words, i) => {
        const known = words.flatMap((w) => this.index.get(w) ?? []).slice(0, MAX_WORDS);
        known.forEach((id, j) => {
          ids[i * MAX_WORDS + j] = id;
          share[i * MAX_WORDS + j] = known.length ** -0.5;
        });
      });
      const rows = embedding(this.params.words, tf.tensor2d(ids, [texts.length, MAX_WORDS], 'int32'));
      const weights = tf.tensor3d(share, [texts.length, 1, MAX_WORDS]);
      const sum = tf.squeeze(tf.matMul(weights, rows as tf.Tensor3D), [1]) as tf.Tensor2D; // [n, hidden]
      const x = layerNorm(sum, this.params.norm);
      const mlp = linear(linear(x, this.params.mlpUp, 'gelu-tanh'), this.params.mlpDown);
      return tf.add(linear(x, this.params.skip), mlp) as tf.Tensor2D;
    });
  }
}
