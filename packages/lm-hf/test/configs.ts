import type { HFConfigJson } from '../src/index';

const sizes = { vocab_size: 20, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 24 };
const opt = { model_type: 'opt', ...sizes, ffn_dim: 24, max_position_embeddings: 128 };
const mpt = { vocab_size: 20, d_model: 12, n_layers: 2, max_seq_len: 128 };

/** A config.json for small models of every family, and for every option in which models of a family differ. */
export const configs: Readonly<Record<string, HFConfigJson>> = {
  gpt2: { model_type: 'gpt2', vocab_size: 20, n_embd: 16, n_layer: 2, n_head: 2, n_positions: 128 },
  opt,
  'opt, norms after, embedding projected': { ...opt, do_layer_norm_before: false, word_embed_proj_dim: 8 },
  'opt without biases': { ...opt, enable_bias: false },
  gpt_neox: { model_type: 'gpt_neox', ...sizes, rotary_pct: 0.5 },
  'gpt_neox, serial': { model_type: 'gpt_neox', ...sizes, use_parallel_residual: false, rotary_pct: 1 },
  llama: { model_type: 'llama', ...sizes },
  'llama, grouped heads': {
    model_type: 'llama',
    ...sizes,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
    attention_bias: true,
    mlp_bias: true,
    tie_word_embeddings: true,
  },
  mpt: { model_type: 'mpt', ...mpt, n_heads: 3, attn_config: { clip_qkv: 1.5 } },
  'mpt, learned positions': {
    model_type: 'mpt',
    ...mpt,
    n_heads: 2,
    attn_config: { alibi: false, softmax_scale: 0.2 },
  },
  mosaic_gpt: { model_type: 'mosaic_gpt', ...mpt, n_heads: 2, alibi: true, attn_qk_ln: true, no_bias: true },
};
