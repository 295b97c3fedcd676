import type { TiedHead } from '@flamingo-ts/flamingo';
import { attention, embedding, layerNorm, linear, type ParamTree, type StateTensor } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';

/** Every layer of this small model has both a weight and a bias. */
type WeightAndBias<R extends tf.Rank> = { readonly weight: tf.Variable<R>; readonly bias: tf.Variable<tf.Rank.R1> };
type Linear = WeightAndBias<tf.Rank.R2>;
type Norm = WeightAndBias<tf.Rank.R1>;

type TinyBlockParams = {
  readonly norm1: Norm;
  readonly qkv: Linear;
  readonly proj: Linear;
  readonly norm2: Norm;
  readonly up: Linear;
  readonly down: Linear;
};

type TinyParams = {
  readonly tokens: tf.Variable<tf.Rank.R2>;
  readonly positions: tf.Variable<tf.Rank.R2>;
  readonly blocks: readonly TinyBlockParams[];
  readonly norm: Norm;
};

/**
 * The language model of the end-to-end references: GPT-2's blocks with exact GELU, learned positions that count padding,
 * and a tied head.
 */
export class TinyLM implements CausalLM, TiedHead {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params: TinyParams & ParamTree;
  readonly blocks: readonly LMBlock[];

  /** @param state parameters by the names in the references, without the prefix up to and including `transformer.` */
  constructor(state: Readonly<Record<string, StateTensor>>, numLayers: number, numHeads: number) {
    const variable = <R extends tf.Rank>(name: string): tf.Variable<R> => {
      const value = state[name];
      if (!value) throw new Error(`TinyLM: parameter ${name} is missing`);
      return tf.tidy(() => tf.variable(tf.tensor(value.data, [...value.shape] as never))) as unknown as tf.Variable<R>;
    };
    const both = <R extends tf.Rank>(name: string): WeightAndBias<R> => ({
      weight: variable<R>(`${name}.weight`),
      bias: variable<tf.Rank.R1>(`${name}.bias`),
    });
    const layer = (i: number): TinyBlockParams => ({
      norm1: both(`blocks.${i}.decoder_layer.ln_1`),
      qkv: both(`blocks.${i}.decoder_layer.attn.qkv`),
      proj: both(`blocks.${i}.decoder_layer.attn.proj`),
      norm2: both(`blocks.${i}.decoder_layer.ln_2`),
      up: both(`blocks.${i}.decoder_layer.mlp.fc`),
      down: both(`blocks.${i}.decoder_layer.mlp.proj`),
    });
    this.params = {
      tokens: variable('wte.weight'),
      positions: variable('wpe.weight'),
      blocks: Array.from({ length: numLayers }, (_, i) => layer(i)),
      norm: both('ln_f'),
    };
    [this.vocabSize, this.hiddenSize] = this.params.tokens.shape;
    this.blocks = this.params.blocks.map((params, i) => ({
      params,
      apply: (x, context) => block(x, params, numHeads, i, context),
    }));
  }

  embed(tokens: tf.Tensor2D, { cache }: LMContext): tf.Tensor3D {
    return tf.tidy(() => {
      const positions = tf.slice(this.params.positions, [cache?.length ?? 0, 0], [tokens.shape[1], this.hiddenSize]);
      return tf.add(embedding(this.params.tokens, tokens), positions) as tf.Tensor3D;
    });
  }

  headInput(x: tf.Tensor3D): tf.Tensor3D {
    return layerNorm(x, this.params.norm) as tf.Tensor3D;
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    return tf.tidy(() => linear(this.headInput(x), { weight: this.params.tokens }) as tf.Tensor3D);
  }
}

function block(x: tf.Tensor3D, p: TinyBlockParams, numHeads: number, layer: number, context: LMContext): tf.Tensor3D {
  return tf.tidy(() => {
    const [q, k, v] = tf.split(linear(layerNorm(x, p.norm1), p.qkv), 3, 2) as tf.Tensor3D[];
    const past = context.cache?.append(layer, k!, v!);
    const seen = attention(q!, past?.keys ?? k!, past?.values ?? v!, {
      numHeads,
      causal: true,
      keyMask: context.keyMask,
    });
    const y = tf.add(x, linear(seen, p.proj));
    return tf.add(y, linear(linear(layerNorm(y, p.norm2), p.up, 'gelu'), p.down)) as tf.Tensor3D;
  });
}
