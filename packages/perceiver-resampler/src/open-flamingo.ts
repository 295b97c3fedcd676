import { mapNames, type FloatTensor, type NameRule } from '@flamingo-ts/checkpoint';

/** OpenFlamingo stores media embeddings as `[media, 1, d]`. */
const withoutMiddleAxis = ({ shape, data }: FloatTensor): FloatTensor => ({ shape: [shape[0]!, shape.at(-1)!], data });

/** From the names of OpenFlamingo and flamingo-pytorch, which are the same, to ours. */
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
 * Renames the state of an OpenFlamingo (or flamingo-pytorch) resampler to this package's names, and splits its fused
 * key-value matrix in two. Works for gradients under the same names too.
 */
export function resamplerFromOpenFlamingo(state: Readonly<Record<string, FloatTensor>>): Record<string, FloatTensor> {
  return mapNames(state, RULES);
}
