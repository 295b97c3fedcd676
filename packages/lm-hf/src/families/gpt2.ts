import { packed, type Family, type Source } from '../family';
import { headWidth } from '../hf-config';

const transposed = (name: string): Source => ({ name, transposed: true });

/** GPT-2 (Radford et al. 2019). Its linear layers are stored as `[in, out]`. */
export const gpt2: Family = {
  config(json) {
    json.only('scale_attn_by_inverse_layer_idx', false);
    json.only('add_cross_attention', false);
    const hiddenSize = json.size('n_embd');
    const numHeads = json.size('n_head');
    const headDim = headWidth(json, hiddenSize, numHeads);
    return {
      vocabSize: json.size('vocab_size'),
      hiddenSize,
      embeddingSize: hiddenSize,
      numLayers: json.size('n_layer'),
      numHeads,
      numKeyValueHeads: numHeads,
      headDim,
      intermediateSize: json.size('n_inner', 4 * hiddenSize),
      positions: { kind: 'learned', rows: json.size('n_positions', 1024), offset: 0 },
      norm: { kind: 'layer', bias: true, epsilon: json.number('layer_norm_epsilon', 1e-5) },
      residual: 'pre-norm',
      finalNorm: true,
      activation: json.activation('activation_function', 'gelu_new'),
      gatedMLP: false,
      attentionBias: true,
      mlpBias: true,
      tiedHead: json.flag('tie_word_embeddings', true),
      attentionScale: json.flag('scale_attn_weights', true) ? undefined : 1,
    };
  },
  names: () => ({
    prefix: 'transformer.',
    layer: 'h.',
    modules: {
      embed: 'wte',
      positions: 'wpe',
      attn_norm: 'ln_1',
      ...packed('attn.c_attn', { transposed: true }),
      'attn.o_proj': transposed('attn.c_proj'),
      ffn_norm: 'ln_2',
      'ffn.up': transposed('mlp.c_fc'),
      'ffn.down': transposed('mlp.c_proj'),
      final_norm: 'ln_f',
    },
    heads: ['lm_head'],
    ignored: /^(transformer\.)?h\.\d+\.attn\.(masked_)?bias$/,
  }),
};
