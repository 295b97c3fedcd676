import * as tf from '@tensorflow/tfjs-core';
import { attention, embedding, layerNorm, linear, type ParamTree } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '../src/index';

/** A minimal GPT-2, to test decoding with absolute positions. */
export class TinyGPT2 implements CausalLM {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params: ParamTree = {};
  readonly blocks: readonly LMBlock[];
  private readonly tensors = new Map<string, tf.Tensor>();

  /** @param weights tensors named as in a Hugging Face checkpoint: linear weights are [in, out] */
  constructor(
    private readonly weights: { tensor(name: string): tf.Tensor },
    config: { n_embd: number; vocab_size: number; n_layer: number; n_head: number },
  ) {
    this.hiddenSize = config.n_embd;
    this.vocabSize = config.vocab_size;
    this.blocks = Array.from({ length: config.n_layer }, (_, i) => ({
      params: {},
      apply: (x, { keyMask, cache }) => {
        const at = `h.${i}.`;
        const qkv = this.linear(this.norm(x, `${at}ln_1`), `${at}attn.c_attn`);
        const [q, k, v] = tf.split(qkv, 3, 2) as tf.Tensor3D[];
        const { keys, values } = cache?.append(i, k!, v!) ?? { keys: k!, values: v! };
        const y = attention(q!, keys, values, { numHeads: config.n_head, causal: true, keyMask });
        const z = tf.add(x, this.linear(y, `${at}attn.c_proj`));
        const inner = this.linear(this.norm(z, `${at}ln_2`), `${at}mlp.c_fc`, 'gelu-tanh');
        return tf.add(z, this.linear(inner, `${at}mlp.c_proj`)) as tf.Tensor3D;
      },
    }));
  }

  embed(tokens: tf.Tensor2D, { keyMask, cache }: LMContext): tf.Tensor3D {
    const [batch, text] = tokens.shape;
    const past = cache?.length ?? 0;
    const mask = keyMask ?? tf.ones([batch, past + text]);
    // A token's position is the number of real tokens before it.
    const counted = tf.relu(tf.sub(tf.cumsum(mask, 1), 1));
    const positions = tf.cast(tf.slice(counted, [0, past], [batch, text]), 'int32');
    const x = embedding(this.tensor('wte.weight'), tokens);
    return tf.add(x, embedding(this.tensor('wpe.weight'), positions)) as tf.Tensor3D;
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    return linear(this.norm(x, 'ln_f'), { weight: this.tensor('wte.weight') as tf.Tensor2D }) as tf.Tensor3D;
  }

  private tensor(name: string): tf.Tensor {
    let tensor = this.tensors.get(name);
    if (!tensor) this.tensors.set(name, (tensor = tf.keep(this.weights.tensor(`transformer.${name}`))));
    return tensor;
  }

  private norm(x: tf.Tensor, name: string): tf.Tensor {
    return layerNorm(x, {
      weight: this.tensor(`${name}.weight`) as tf.Tensor1D,
      bias: this.tensor(`${name}.bias`) as tf.Tensor1D,
    });
  }

  private linear(x: tf.Tensor, name: string, activation?: 'gelu-tanh'): tf.Tensor {
    const weight = tf.transpose(this.tensor(`${name}.weight`)) as tf.Tensor2D;
    return linear(x, { weight, bias: this.tensor(`${name}.bias`) as tf.Tensor1D }, activation);
  }
}
