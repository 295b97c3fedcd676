import { gatedXAttnFromOpenFlamingo } from '@flamingo-ts/gated-xattn';
import type { StateTensor } from '@flamingo-ts/kernels';
import { resamplerFromOpenFlamingo } from '@flamingo-ts/perceiver-resampler';

/**
 * The trained part of an OpenFlamingo checkpoint under this package's names, for `Flamingo.load`. The language model's
 * embedding, which such a checkpoint holds whole, belongs into the language model; the offsets of the marks are then 0.
 *
 * @param state values by OpenFlamingo's names, with or without the wrapper's `module.` in front
 */
export function flamingoFromOpenFlamingo(state: Readonly<Record<string, StateTensor>>): Record<string, StateTensor> {
  const resampler: Record<string, StateTensor> = {};
  const blocks = new Map<number, Record<string, StateTensor>>();
  for (const [name, value] of Object.entries(state)) {
    const part = /^(?:module\.)?perceiver\.(.+)$/.exec(name);
    if (part) resampler[part[1]!] = value;
    const gated = /\.(\d+)\.gated_cross_attn_layer\.(.+)$/.exec(name);
    if (gated) blocks.set(Number(gated[1]), { ...blocks.get(Number(gated[1])), [gated[2]!]: value });
  }
  const ours: Record<string, StateTensor> = {};
  const add = (prefix: string, part: Record<string, StateTensor>) => {
    for (const [name, value] of Object.entries(part)) ours[`${prefix}.${name}`] = value;
  };
  add('resampler', resamplerFromOpenFlamingo(resampler));
  // Theirs are numbered by the language model's layers, ours by their order.
  [...blocks]
    .sort(([a], [b]) => a - b)
    .forEach(([, block], i) => add(`xattn.blocks.${i}`, gatedXAttnFromOpenFlamingo(block)));
  const width = ours['xattn.blocks.0.mlp.norm.weight']?.shape[0];
  if (width === undefined) {
    throw new Error(
      'flamingoFromOpenFlamingo: no gated block was found: no name holds gated_cross_attn_layer. ' +
        'Pass the state dict of a whole OpenFlamingo model.',
    );
  }
  ours['tokenOffsets'] = { shape: [2, width], data: new Float32Array(2 * width) };
  return ours;
}
