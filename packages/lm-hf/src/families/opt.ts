import type { Family } from '../family';
import { headWidth } from '../hf-config';

/** Row of the position table for position 0. */
const OFFSET = 2;

/** OPT (Zhang et al. 2022). The 350M model is post-norm and has a narrower embedding. */
export const opt: Family = {
  config(json) {
    json.only('layer_norm_elementwise_affine', true);
    const hiddenSize = json.size('hidden_size');
    const numHeads = json.size('num_attention_heads');
    const bias = json.flag('enable_bias', true);
    const before = json.flag('do_layer_norm_before', true);
    return {
      vocabSize: json.size('vocab_size'),
      hiddenSize,
      embeddingSize: json.size('word_embed_proj_dim', hiddenSize),
      numLayers: json.size('num_hidden_layers'),
      numHeads,
      numKeyValueHeads: numHeads,
      headDim: headWidth(json, hiddenSize, numHeads),
      intermediateSize: json.size('ffn_dim'),
      positions: { kind: 'learned', rows: json.size('max_position_embeddings', 2048) + OFFSET, offset: OFFSET },
      norm: { kind: 'layer', bias: true, epsilon: 1e-5 },
      residual: before ? 'pre-norm' : 'post-norm',
      finalNorm: before && !json.flag('_remove_final_layer_norm', false),
      activation: json.activation('activation_function', 'relu'),
      gatedMLP: false,
      attentionBias: bias,
      mlpBias: bias,
      tiedHead: json.flag('tie_word_embeddings', true),
    };
  },
  names: () => ({
    prefix: 'model.',
    layer: 'decoder.layers.',
    modules: {
      embed: 'decoder.embed_tokens',
      embed_proj: 'decoder.project_in',
      positions: 'decoder.embed_positions',
      attn_norm: 'self_attn_layer_norm',
      'attn.q_proj': 'self_attn.q_proj',
      'attn.k_proj': 'self_attn.k_proj',
      'attn.v_proj': 'self_attn.v_proj',
      'attn.o_proj': 'self_attn.out_proj',
      // The layer's norm; the model's final norm has the same name.
      ffn_norm: 'final_layer_norm',
      'ffn.up': 'fc1',
      'ffn.down': 'fc2',
      final_norm: 'decoder.final_layer_norm',
      head_proj: 'decoder.project_out',
    },
    heads: ['lm_head'],
  }),
};
