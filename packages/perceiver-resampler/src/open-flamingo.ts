import type { StateTensor } from '@flamingo-ts/kernels';

/** OpenFlamingo's and flamingo-pytorch's names (both the same) and ours, part by part. */
const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^frame_embs$/, 'timeEmbeddings'],
  [/^(media_time_embs|media_pos_emb)$/, 'mediaEmbeddings'],
  [/^(layers\.\d+)\.0\.norm_media\./, '$1.normMedia.'],
  [/^(layers\.\d+)\.0\.norm_latents\./, '$1.normLatents.'],
  [/^(layers\.\d+)\.0\.to_q\./, '$1.query.'],
  [/^(layers\.\d+)\.0\.to_out\./, '$1.output.'],
  [/^(layers\.\d+)\.1\.0\./, '$1.mlpNorm.'],
  [/^(layers\.\d+)\.1\.1\./, '$1.mlpUp.'],
  [/^(layers\.\d+)\.1\.3\./, '$1.mlpDown.'],
];

/**
 * Renames the state of an OpenFlamingo (or flamingo-pytorch) resampler to this package's names; its fused key-value
 * matrix becomes two. Gradients under the same names are renamed just so.
 */
export function resamplerFromOpenFlamingo(state: Readonly<Record<string, StateTensor>>): Record<string, StateTensor> {
  const ours: Record<string, StateTensor> = {};
  for (const [name, { shape, data }] of Object.entries(state)) {
    const fused = /^(layers\.\d+)\.0\.to_kv\.weight$/.exec(name);
    if (fused) {
      const [out = 0, into = 0] = shape;
      const half = data.length / 2;
      ours[`${fused[1]}.key.weight`] = { shape: [out / 2, into], data: data.slice(0, half) };
      ours[`${fused[1]}.value.weight`] = { shape: [out / 2, into], data: data.slice(half) };
    } else {
      const renamed = NAMES.reduce((n, [theirs, own]) => n.replace(theirs, own), name);
      // Places in a sequence come as [media, 1, d].
      ours[renamed] = { shape: renamed === 'mediaEmbeddings' ? [shape[0]!, shape.at(-1)!] : shape, data };
    }
  }
  return ours;
}
