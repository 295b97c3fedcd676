import { mapNames, type FloatTensor, type NameRule } from '@flamingo-ts/checkpoint';

/** From the names of OpenFlamingo and flamingo-pytorch, which are the same, to ours. */
const RULES: readonly NameRule[] = [
  { from: /^attn_gate$/, to: 'attnGate' },
  { from: /^ff_gate$/, to: 'mlpGate' },
  { from: /(^|\.)to_q\./, to: '$1query.' },
  { from: /(^|\.)to_kv\./, split: ['$1key.', '$1value.'] },
  { from: /(^|\.)to_out\./, to: '$1output.' },
  { from: /^ff\.0\./, to: 'mlp.norm.' },
  { from: /^ff\.1\./, to: 'mlp.up.' },
  { from: /^ff\.3\./, to: 'mlp.down.' },
];

/**
 * Renames the state of one gated block of OpenFlamingo (or flamingo-pytorch), or of its cross-attention alone, to this
 * package's names, and splits its fused key-value matrix in two. Works for gradients under the same names too.
 */
export function gatedXAttnFromOpenFlamingo(state: Readonly<Record<string, FloatTensor>>): Record<string, FloatTensor> {
  return mapNames(state, RULES);
}
