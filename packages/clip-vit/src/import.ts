import { mapNames, outputsFirst, type FloatTensor, type NameRule } from '@flamingo-ts/checkpoint';

const LAYER = /^transformer\.resblocks\.(\d+)\./.source;

const OPEN_CLIP: readonly NameRule[] = [
  { from: /^class_embedding$/, to: 'classToken' },
  { from: /^positional_embedding$/, to: 'positions' },
  { from: /^conv1\./, to: 'patches.' },
  { from: /^ln_pre\./, to: 'preNorm.' },
  { from: /^ln_post\./, to: 'postNorm.' },
  // open_clip computes `x @ proj`, this package `x @ weight^T`.
  { from: /^proj$/, to: 'projection.weight', convert: outputsFirst },
  { from: new RegExp(`${LAYER}ln_1\\.`), to: 'layers.$1.attnNorm.' },
  { from: new RegExp(`${LAYER}ln_2\\.`), to: 'layers.$1.mlpNorm.' },
  {
    from: new RegExp(`${LAYER}attn\\.in_proj_(weight|bias)$`),
    split: ['layers.$1.query.$2', 'layers.$1.key.$2', 'layers.$1.value.$2'],
  },
  { from: new RegExp(`${LAYER}attn\\.out_proj\\.`), to: 'layers.$1.output.' },
  { from: new RegExp(`${LAYER}mlp\\.c_fc\\.`), to: 'layers.$1.up.' },
  { from: new RegExp(`${LAYER}mlp\\.c_proj\\.`), to: 'layers.$1.down.' },
];

/**
 * Converts an open_clip (or OpenAI) state dict to this package's names and layouts, for `ClipViT.fromState`. From a whole CLIP
 * model, where names of the vision tower start with `visual.`, it keeps only the tower.
 */
export function importOpenClip(state: Readonly<Record<string, FloatTensor>>): Record<string, FloatTensor> {
  const tower = Object.entries(state).flatMap(([name, tensor]) =>
    name.startsWith('visual.') ? [[name.slice('visual.'.length), tensor] as const] : [],
  );
  return mapNames(tower.length ? Object.fromEntries(tower) : state, OPEN_CLIP);
}
