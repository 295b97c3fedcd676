import { packed, type Family } from '../family';
import { headWidth, rotaryOf } from '../hf-config';

/** GPT-NeoX (Black et al. 2022), Pythia, RedPajama-INCITE. Query, key and value of a head are stored together. */
export const gptNeoX: Family = {
  config(json) {
    const hiddenSize = json.size('hidden_size');
    const numHeads = json.size('num_attention_heads');
    const headDim = headWidth(json, hiddenSize, numHeads);
    const old = { base: 'rotary_emb_base', share: 'rotary_pct', missingShare: 0.25 };
    return {
      vocabSize: json.size('vocab_size'),
      hiddenSize,
      embeddingSize: hiddenSize,
      numLayers: json.size('num_hidden_layers'),
      numHeads,
      numKeyValueHeads: numHeads,
      headDim,
      intermediateSize: json.size('intermediate_size'),
      positions: { kind: 'rotary', frequencies: rotaryOf(json, headDim, old) },
      norm: { kind: 'layer', bias: true, epsilon: json.number('layer_norm_eps', 1e-5) },
      residual: json.flag('use_parallel_residual', true) ? 'parallel' : 'pre-norm',
      finalNorm: true,
      activation: json.activation('hidden_act', 'gelu'),
      gatedMLP: false,
      attentionBias: json.flag('attention_bias', true),
      mlpBias: true,
      tiedHead: json.flag('tie_word_embeddings', false),
    };
  },
  names: ({ numHeads }) => ({
    prefix: 'gpt_neox.',
    layer: 'layers.',
    modules: {
      embed: 'embed_in',
      attn_norm: 'input_layernorm',
      ...packed('attention.query_key_value', { heads: numHeads }),
      'attn.o_proj': 'attention.dense',
      ffn_norm: 'post_attention_layernorm',
      'ffn.up': 'mlp.dense_h_to_4h',
      'ffn.down': 'mlp.dense_4h_to_h',
      final_norm: 'final_layer_norm',
    },
    heads: ['embed_out', 'lm_head'],
    ignored: /\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$/,
  }),
};
