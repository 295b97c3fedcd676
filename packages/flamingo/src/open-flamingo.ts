import { gatedXAttnFromOpenFlamingo } from '@flamingo-ts/gated-xattn';
import type { StateTensor } from '@flamingo-ts/kernels';
import { resamplerFromOpenFlamingo } from '@flamingo-ts/perceiver-resampler';

type State = Readonly<Record<string, StateTensor>>;

/** One trained part of an OpenFlamingo checkpoint. */
export interface OpenFlamingoPart {
  /** Prefix of its names in this package. */
  readonly prefix: string;
  /** Stored names by OpenFlamingo's names within the part. */
  readonly names: ReadonlyMap<string, string>;
  /** From OpenFlamingo's names within the part to this package's. */
  readonly rename: (state: State) => Record<string, StateTensor>;
}

/** The names of an OpenFlamingo checkpoint, sorted by part. */
export interface OpenFlamingoNames {
  readonly resampler: OpenFlamingoPart;
  /** Gated blocks in order. */
  readonly gated: readonly OpenFlamingoPart[];
  /** For each gated block, the language layer that follows it. */
  readonly layers: readonly number[];
  /** Paths of the lists of layers that contain gated blocks: one in a valid checkpoint. */
  readonly paths: readonly string[];
  /** Stored name of the embedding. */
  readonly embedding: string | undefined;
}

const EMBEDDING = /^lang_encoder\.(?:.+\.)?(?:wte|embed_in|embed_tokens)\.weight$/;
const GATED = /^lang_encoder\.(.+)\.(\d+)\.gated_cross_attn_layer\.(.+)$/;

/**
 * Sorts the names of a checkpoint by part. Ignores the frozen models, which only some checkpoints contain (those of 4B).
 *
 * @param stored names, with or without the `module.` of a wrapper for distributed training
 */
export function openFlamingoNames(stored: readonly string[]): OpenFlamingoNames {
  const resampler = new Map<string, string>();
  const blocks = new Map<number, Map<string, string>>();
  const paths = new Set<string>();
  let embedding: string | undefined;
  for (const full of stored) {
    const name = full.replace(/^module\./, '');
    if (name.startsWith('perceiver.')) resampler.set(name.slice('perceiver.'.length), full);
    if (EMBEDDING.test(name)) embedding ??= full;
    const [, path, layer, param] = GATED.exec(name) ?? [];
    if (path === undefined || layer === undefined || param === undefined) continue;
    paths.add(path);
    blocks.set(Number(layer), (blocks.get(Number(layer)) ?? new Map<string, string>()).set(param, full));
  }
  // OpenFlamingo numbers gated blocks by the language model's layers, this package by their order.
  const sorted = [...blocks].sort(([a], [b]) => a - b);
  return {
    resampler: { prefix: 'resampler', names: resampler, rename: resamplerFromOpenFlamingo },
    gated: sorted.map(([, names], i) => ({ prefix: `xattn.blocks.${i}`, names, rename: gatedXAttnFromOpenFlamingo })),
    layers: sorted.map(([layer]) => layer),
    paths: [...paths],
    embedding,
  };
}

/** The tensors of a part under this package's names. */
export function renamePart(
  { prefix, names, rename }: OpenFlamingoPart,
  read: (stored: string) => StateTensor,
): Record<string, StateTensor> {
  const state = Object.fromEntries([...names].map(([name, stored]) => [name, read(stored)]));
  return Object.fromEntries(Object.entries(rename(state)).map(([name, tensor]) => [`${prefix}.${name}`, tensor]));
}

/**
 * Renames the trained part of an OpenFlamingo checkpoint to this package's names, for `Flamingo.load`. The checkpoint also
 * contains the whole embedding, which belongs to the language model; so the offsets of the special tokens are 0.
 *
 * @param state values by OpenFlamingo's names, with or without the `module.` of a wrapper for distributed training
 */
export function flamingoFromOpenFlamingo(state: State): Record<string, StateTensor> {
  const { resampler, gated } = openFlamingoNames(Object.keys(state));
  const ours = Object.assign({}, ...[resampler, ...gated].map((part) => renamePart(part, (name) => state[name]!))) as {
    [name: string]: StateTensor;
  };
  const width = ours['xattn.blocks.0.mlp.norm.weight']?.shape[0];
  if (width === undefined) {
    throw new Error(
      'flamingoFromOpenFlamingo: no gated block was found: no name contains gated_cross_attn_layer. ' +
        'Pass the state dict of a whole OpenFlamingo model.',
    );
  }
  ours['tokenOffsets'] = { shape: [2, width], data: new Float32Array(2 * width) };
  return ours;
}
