import type { Family } from '../family';
import { headWidth, rotaryOf } from '../hf-config';

/** LLaMA (Touvron et al. 2023) 1 to 3. */
export const llama: Family = {
  config(json) {
    const hiddenSize = json.size('hidden_size');
    const numHeads = json.size('num_attention_heads');
    const headDim = json.has('head_dim') ? json.size('head_dim') : headWidth(json, hiddenSize, numHeads);
    const old = { base: 'rope_theta', share: 'partial_rotary_factor', missingShare: 1 };
    return {
      vocabSize: json.size('vocab_size'),
      hiddenSize,
      embeddingSize: hiddenSize,
      numLayers: json.size('num_hidden_layers'),
      numHeads,
      numKeyValueHeads: json.size('num_key_value_heads', numHeads),
      headDim,
      intermediateSize: json.size('intermediate_size'),
      positions: { kind: 'rotary', frequencies: rotaryOf(json, headDim, old) },
      norm: { kind: 'rms', bias: false, epsilon: json.number('rms_norm_eps', 1e-6) },
      residual: 'pre-norm',
      finalNorm: true,
      activation: json.activation('hidden_act', 'silu'),
      gatedMLP: true,
      attentionBias: json.flag('attention_bias', false),
      mlpBias: json.flag('mlp_bias', false),
      tiedHead: json.flag('tie_word_embeddings', false),
    };
  },
  names: () => ({
    prefix: 'model.',
    layer: 'layers.',
    modules: {
      embed: 'embed_tokens',
      attn_norm: 'input_layernorm',
      'attn.q_proj': 'self_attn.q_proj',
      'attn.k_proj': 'self_attn.k_proj',
      'attn.v_proj': 'self_attn.v_proj',
      'attn.o_proj': 'self_attn.o_proj',
      ffn_norm: 'post_attention_layernorm',
      'ffn.gate': 'mlp.gate_proj',
      'ffn.up': 'mlp.up_proj',
      'ffn.down': 'mlp.down_proj',
      final_norm: 'norm',
    },
    heads: ['lm_head'],
    ignored: /\.self_attn\.rotary_emb\.inv_freq$/,
  }),
};
