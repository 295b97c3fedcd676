import { mapNames, type FloatTensor, type NameRule } from '@flamingo-ts/checkpoint';

/** Places in a sequence come as `[media, 1, d]`. */
const withoutMiddleAxis = ({ shape, data }: FloatTensor): FloatTensor => ({ shape: [shape[0]!, shape.at(-1)!], data });

/** OpenFlamingo's and flamingo-pytorch's names (both the same) and ours. */
const RULES: readonly NameRule[] = [
  { from: /^frame_embs$/, to: 'timeEmbeddings' },
  { from: /^(media_time_embs|media_pos_emb)$/, to: 'mediaEmbeddings', convert: withoutMiddleAxis },
  { from: /^(layers\.\d+)\.0\.norm_media\./, to: '$1.normMedia.' },
  { from: /^(layers\.\d+)\.0\.norm_latents\./, to: '$1.normLatents.' },
  { from: /^(layers\.\d+)\.0\.to_q\./, to: '$1.query.' },
  { from: /^(layers\.\d+)\.0\.to_kv\./, split: ['$1.key.', '$1.value.'] },
  { from: /^(layers\.\d+)\.0\.to_out\./, to: '$1.output.' },
  { from: /^(layers\.\d+)\.1\.0\./, to: '$1.mlpNorm.' },
  { from: /^(layers\.\d+)\.1\.1\./, to: '$1.mlpUp.' },
  { from: /^(layers\.\d+)\.1\.3\./, to: '$1.mlpDown.' },
];

/**
 * Renames the state of an OpenFlamingo (or flamingo-pytorch) resampler to this package's names; its fused key-value
 * matrix becomes two. Gradients under the same names are renamed just so.
 */
export function resamplerFromOpenFlamingo(state: Readonly<Record<string, FloatTensor>>): Record<string, FloatTensor> {
  return mapNames(state, RULES);
}
