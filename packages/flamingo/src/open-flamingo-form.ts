import type { OpenCheckpoint } from '@flamingo-ts/checkpoint';
import type { InterleaveConfig } from '@flamingo-ts/gated-xattn';
import { checkValue, rule } from '@flamingo-ts/kernels';
import type { ResamplerConfig } from '@flamingo-ts/perceiver-resampler';
import { openFlamingoNames, type OpenFlamingoNames, type OpenFlamingoPart } from './open-flamingo';
import { openFlamingoHeadDim } from './open-flamingo-presets';

/** An open checkpoint, or any other object that reads tensors one by one. */
export type OpenFlamingoCheckpoint = Pick<OpenCheckpoint, 'names' | 'info' | 'read'>;

/** What the names and shapes of an OpenFlamingo checkpoint say about the model. */
export interface OpenFlamingoForm {
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
  /** The language model that it was trained with. */
  readonly lm: {
    /** Path of its list of blocks in OpenFlamingo's names: `transformer.blocks`. */
    readonly layers: string;
    /** Smallest and largest number of blocks that fit the positions of the gated blocks. */
    readonly numLayers: readonly [fewest: number, most: number];
    readonly hiddenSize: number;
    /** Rows of its embedding as resized by OpenFlamingo: the size of the tokenizer including added tokens. */
    readonly vocabSize: number;
  };
}

/** Names of a whole checkpoint. */
interface WholeNames extends OpenFlamingoNames {
  readonly path: string;
  readonly embedding: string;
}

/** An OpenFlamingo checkpoint with its names sorted by part, and its form. */
export interface OpenFlamingoContents {
  readonly checkpoint: OpenFlamingoCheckpoint;
  /** Named in errors: the file. */
  readonly what: string;
  readonly names: WholeNames;
  readonly form: OpenFlamingoForm;
}

/**
 * Derives the sizes of a model from the names and shapes of its checkpoint. Reads no weights.
 *
 * @param headDim width of the attention heads
 * @param what    named in errors: the file
 * @throws Error listing the parts of an OpenFlamingo checkpoint that are missing
 */
export function openFlamingoForm(
  checkpoint: OpenFlamingoCheckpoint,
  headDim: number = openFlamingoHeadDim,
  what = 'openFlamingoForm',
): OpenFlamingoForm {
  return contentsOf(checkpoint, headDim, what).form;
}

/** @throws Error listing the parts of an OpenFlamingo checkpoint that are missing */
export function contentsOf(checkpoint: OpenFlamingoCheckpoint, headDim: number, what: string): OpenFlamingoContents {
  checkValue(what, 'headDim', headDim, rule.size);
  const stored = openFlamingoNames(checkpoint.names);
  const { resampler, gated, paths, embedding } = stored;
  const missing = [
    resampler.names.size > 0 ? [] : ['the resampler (perceiver.*)'],
    gated.length > 0 ? [] : ['the gated blocks (lang_encoder.*.gated_cross_attn_layer.*)'],
    embedding !== undefined ? [] : ['the embedding (lang_encoder.*.wte, embed_in or embed_tokens)'],
  ].flat();
  if (missing.length > 0 || embedding === undefined) {
    throw new Error(
      `${what}: an OpenFlamingo checkpoint contains resampler, gated blocks and embedding; of its ${checkpoint.names.length} ` +
        `tensors (${checkpoint.names.slice(0, 3).join(', ')}, ...) none belongs to ${missing.join(', to ')}. ` +
        'Pass the state dict of a whole OpenFlamingo model, as its training script saves it.',
    );
  }
  if (paths.length > 1) {
    throw new Error(
      `${what}: gated blocks must be in one list of layers, got ${paths.join(' and ')}. Pass the state dict of one model.`,
    );
  }
  const names = { ...stored, path: paths[0]!, embedding };
  return { checkpoint, what, names, form: formOf(checkpoint, names, headDim, what) };
}

function formOf(
  checkpoint: OpenFlamingoCheckpoint,
  { resampler, gated, layers, path, embedding }: WholeNames,
  headDim: number,
  what: string,
): OpenFlamingoForm {
  /** Shape of a tensor of at least two axes, by its name within its part. */
  const shape = ({ names }: OpenFlamingoPart, name: string, part: string): readonly number[] => {
    const stored = names.get(name);
    const axes = stored === undefined ? undefined : checkpoint.info(stored).shape;
    if (axes && axes.length > 1) return axes;
    throw new Error(
      `${what}: ${part} must have a matrix ${name}, got ${axes ? `[${axes.join(', ')}]` : 'none'}. ` +
        'OpenFlamingo saves one: download the checkpoint again.',
    );
  };
  const heads = (inner: number, part: string): number => {
    if (inner % headDim === 0) return inner / headDim;
    throw new Error(
      `${what}: ${part} has queries of width ${inner}, which is not a multiple of headDim ${headDim}. Pass the headDim that it was trained with.`,
    );
  };
  const perceiver = (name: string) => shape(resampler, name, 'the resampler');
  const [numLatents, visualSize] = perceiver('latents') as [number, number];
  const optional = (name: string) => (resampler.names.has(name) ? perceiver(name)[0] : undefined);
  const [numFrames, numMedia] = [optional('frame_embs'), optional('media_time_embs')];
  // Counts distinct layers, because a broken checkpoint may have any number in a name.
  const resamplerLayers = new Set([...resampler.names.keys()].flatMap((name) => /^layers\.\d+\./.exec(name) ?? []));
  const first = layers[0]!;
  const block = (name: string) => shape(gated[0]!, name, `the gated block of layer ${first}`);
  const [inner, hiddenSize] = block('attn.to_q.weight') as [number, number];
  const every = first + 1;
  const [vocabSize, width] = checkpoint.info(embedding).shape;
  if (layers.some((layer, i) => layer !== (i + 1) * every - 1)) {
    throw new Error(
      `${what}: the first gated block precedes layer ${first}, so one must precede every ${every}th layer, got them before layers ` +
        `${layers.join(', ')} of ${path}, counted from 0. Download the checkpoint again.`,
    );
  }
  if (width !== hiddenSize || vocabSize === undefined) {
    throw new Error(
      `${what}: the embedding ${embedding} must be as wide as the gated blocks, ${hiddenSize}, got ` +
        `[${checkpoint.info(embedding).shape.join(', ')}]. Language models that project their embedding are not supported.`,
    );
  }
  return {
    resampler: {
      numHeads: heads(perceiver('layers.0.0.to_q.weight')[0]!, 'the resampler'),
      headDim,
      activation: 'gelu',
      visualSize,
      numLayers: resamplerLayers.size,
      numLatents,
      intermediateSize: perceiver('layers.0.1.1.weight')[0]!,
      finalNorm: true,
      latentStd: 1,
      ...(numFrames !== undefined && { numFrames }),
      ...(numMedia !== undefined && { numMedia }),
    },
    xattn: {
      numHeads: heads(inner, 'a gated block'),
      headDim,
      activation: 'gelu',
      hiddenSize,
      visualSize: block('attn.to_kv.weight')[1]!,
      intermediateSize: block('ff.1.weight')[0]!,
      normMedia: false,
      emptyRows: 'uniform',
      every,
      placement: 'open-flamingo',
    },
    lm: { layers: path, numLayers: [gated.length * every, (gated.length + 1) * every - 1], hiddenSize, vocabSize },
  };
}
