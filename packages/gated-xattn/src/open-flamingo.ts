import type { StateTensor } from '@flamingo-ts/kernels';

/** OpenFlamingo's and flamingo-pytorch's names (both the same) and ours, part by part. */
const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^attn_gate$/, 'attnGate'],
  [/^ff_gate$/, 'mlpGate'],
  [/(^|\.)to_q\./, '$1query.'],
  [/(^|\.)to_out\./, '$1output.'],
  [/^ff\.0\./, 'mlp.norm.'],
  [/^ff\.1\./, 'mlp.up.'],
  [/^ff\.3\./, 'mlp.down.'],
];

/**
 * Renames the state of one gated block of OpenFlamingo (or flamingo-pytorch), or of its cross-attention alone, to this
 * package's names; the fused key-value matrix becomes two. Gradients under the same names are renamed just so.
 */
export function gatedXAttnFromOpenFlamingo(state: Readonly<Record<string, StateTensor>>): Record<string, StateTensor> {
  const ours: Record<string, StateTensor> = {};
  for (const [name, { shape, data }] of Object.entries(state)) {
    const fused = /^(.*)to_kv\.weight$/.exec(name);
    if (fused) {
      const [out = 0, into = 0] = shape;
      const half = data.length / 2;
      ours[`${fused[1]}key.weight`] = { shape: [out / 2, into], data: data.slice(0, half) };
      ours[`${fused[1]}value.weight`] = { shape: [out / 2, into], data: data.slice(half) };
    } else {
      ours[NAMES.reduce((n, [theirs, own]) => n.replace(theirs, own), name)] = { shape, data };
    }
  }
  return ours;
}
