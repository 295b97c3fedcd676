import { packed, type Family, type Names } from '../family';
import { headWidth, type HFConfig } from '../hf-config';
import { alibiSlopes } from '../positions';
import type { TransformerConfig } from '../transformer';

/** What differs between the two forms of config.json. */
interface Dialect {
  /** The object with the keys of attention. */
  readonly attention: HFConfig;
  readonly ratio: string;
  readonly clip: string;
  readonly queryKeyNorm: string;
  /** Defaults of missing keys. */
  readonly alibi: boolean;
  readonly noBias: boolean;
}

function configOf(json: HFConfig, dialect: Dialect): TransformerConfig {
  const { attention, ratio, clip, queryKeyNorm, alibi, noBias } = dialect;
  attention.only('prefix_lm', false);
  attention.only('attn_type', 'multihead_attention');
  attention.only('rope', false);
  json.only('norm_type', 'low_precision_layernorm', 'layernorm');
  json.only('logit_scale', null);
  const hiddenSize = json.size('d_model');
  const numHeads = json.size('n_heads');
  const bias = !json.flag('no_bias', noBias);
  return {
    vocabSize: json.size('vocab_size'),
    hiddenSize,
    embeddingSize: hiddenSize,
    numLayers: json.size('n_layers'),
    numHeads,
    numKeyValueHeads: numHeads,
    headDim: headWidth(json, hiddenSize, numHeads),
    intermediateSize: json.size(ratio, 4) * hiddenSize,
    positions: attention.flag('alibi', alibi)
      ? { kind: 'alibi', slopes: alibiSlopes(numHeads, attention.number('alibi_bias_max', 8)) }
      : { kind: 'learned', rows: json.size('max_seq_len'), offset: 0 },
    norm: { kind: 'layer', bias, epsilon: json.number('layer_norm_epsilon', 1e-5) },
    residual: 'pre-norm',
    finalNorm: true,
    activation: 'gelu',
    gatedMLP: false,
    attentionBias: bias,
    mlpBias: bias,
    tiedHead: json.flag('tie_word_embeddings', true),
    attentionScale: attention.has('softmax_scale') ? attention.number('softmax_scale') : undefined,
    clipQKV: attention.has(clip) ? attention.number(clip) : undefined,
    queryKeyNorm: attention.flag(queryKeyNorm, false),
  };
}

function namesOf(norm: string, finalNorm: string, up: string, down: string): Names {
  return {
    prefix: 'transformer.',
    layer: 'blocks.',
    modules: {
      embed: 'wte',
      positions: 'wpe',
      attn_norm: `${norm}_1`,
      ...packed('attn.Wqkv'),
      'attn.q_norm': 'attn.q_ln',
      'attn.k_norm': 'attn.k_ln',
      'attn.o_proj': 'attn.out_proj',
      ffn_norm: `${norm}_2`,
      'ffn.up': up,
      'ffn.down': down,
      final_norm: finalNorm,
    },
    heads: ['lm_head'],
  };
}

/** MPT (MosaicML 2023), the language model of OpenFlamingo-9B. */
export const mpt: Family = {
  config: (json) =>
    configOf(json, {
      attention: json.section('attn_config'),
      ratio: 'expansion_ratio',
      clip: 'clip_qkv',
      queryKeyNorm: 'qk_ln',
      alibi: true,
      noBias: true,
    }),
  names: () => namesOf('norm', 'norm_f', 'ffn.up_proj', 'ffn.down_proj'),
};

/** MosaicGPT, the older form of MPT and the language model of OpenFlamingo-3B. */
export const mosaicGPT: Family = {
  config: (json) =>
    configOf(json, {
      attention: json,
      ratio: 'mlp_ratio',
      clip: 'attn_clip_qkv',
      queryKeyNorm: 'attn_qk_ln',
      alibi: false,
      noBias: false,
    }),
  names: () => namesOf('ln', 'ln_f', 'mlp.mlp_up', 'mlp.mlp_down'),
};
