import { openCheckpoint, openTorchCheckpoint, type FloatTensor } from '@flamingo-ts/checkpoint';
import {
  expectState,
  FrozenMatrix,
  paramsFrom,
  shapesOf,
  variableOf,
  type FrozenPrecision,
  type Parameter,
} from '@flamingo-ts/kernels';
import type { CausalLM, LMContext } from '@flamingo-ts/lm-core';
import { embeddingOffsets } from './embedding-offsets';
import { FirstTokens } from './first-tokens';
import { Flamingo, flamingoSpecs, type FlamingoConfig, type FlamingoParts } from './flamingo';
import { renamePart } from './open-flamingo';
import {
  contentsOf,
  type OpenFlamingoCheckpoint,
  type OpenFlamingoContents,
  type OpenFlamingoForm,
} from './open-flamingo-form';
import { openFlamingoHeadDim, openFlamingoPresets } from './open-flamingo-presets';

/** The parts that a checkpoint was trained with, and what its shapes do not show. */
export interface OpenFlamingoOptions<C extends LMContext = LMContext> extends FlamingoParts<C> {
  /** Ids of `<image>` and `<|endofchunk|>`. OpenFlamingo adds the latter to the tokenizer first, then the former. */
  readonly tokens: FlamingoConfig['tokens'];
  /** Width of the attention heads of resampler and gated blocks. Defaults to 64, that of all published models. */
  readonly headDim?: number;
  /** Packs the matrices of resampler and gated blocks while reading them, for inference. */
  readonly freeze?: FrozenPrecision;
}

/**
 * Loads an OpenFlamingo model from its checkpoint and the two models that it was trained with. All sizes come from the
 * checkpoint. Of the language model in the checkpoint only the embedding is read: to verify that `lm` is the one it was
 * trained with, and to get the trained rows of the special tokens.
 *
 * The tokenizer may be smaller than the embedding of the language model, as with MPT and GPT-NeoX. OpenFlamingo then
 * truncates the embedding, and so does the returned model. OpenFlamingo does not train a head that is separate from the
 * embedding, so such a head stays the language model's own.
 *
 * @param checkpoint path of a `.pt` file, or of anything that `openCheckpoint` accepts; or an open checkpoint, which stays
 *                   open
 * @param options    the parts, which the model shares with the caller, and the ids of the special tokens
 * @throws Error naming both sides if the language model or the encoder is not the checkpoint's, and listing the tensors
 *         that are missing, unexpected or of another shape
 */
export async function loadOpenFlamingo<C extends LMContext = LMContext>(
  checkpoint: string | OpenFlamingoCheckpoint,
  options: OpenFlamingoOptions<C>,
): Promise<Flamingo<C>> {
  if (typeof checkpoint !== 'string') return load(checkpoint, options, 'loadOpenFlamingo');
  const open = /\.(pt|pth|bin)$/.test(checkpoint) ? openTorchCheckpoint : openCheckpoint;
  const opened = await open(checkpoint);
  try {
    return await load(opened, options, checkpoint);
  } finally {
    await opened.close();
  }
}

async function load<C extends LMContext>(
  checkpoint: OpenFlamingoCheckpoint,
  { lm: whole, vision, tokens, headDim = openFlamingoHeadDim, freeze }: OpenFlamingoOptions<C>,
  what: string,
): Promise<Flamingo<C>> {
  const contents = contentsOf(checkpoint, headDim, what);
  const { form, names } = contents;
  const config = { resampler: form.resampler, xattn: form.xattn, tokens };
  checkParts(contents, { lm: whole, vision }, tokens);
  checkShapes(contents, config);
  const vocabSize = form.lm.vocabSize;
  const lm = vocabSize < whole.vocabSize ? new FirstTokens(whole, vocabSize) : whole;
  const params = new Map<string, Parameter>();
  try {
    const offsets = await tokenOffsets(contents, whole, [tokens.image, tokens.endOfChunk]);
    params.set('tokenOffsets', variableOf(offsets, [2, form.lm.hiddenSize]));
    for (const part of [names.resampler, ...names.gated]) {
      const read = new Map<string, FloatTensor>();
      for (const stored of part.names.values()) read.set(stored, await readFloats(checkpoint, stored));
      for (const [name, { shape, data }] of Object.entries(renamePart(part, (stored) => read.get(stored)!))) {
        const packed = freeze && shape.length === 2 && name.endsWith('.weight');
        params.set(name, packed ? new FrozenMatrix(data, shape as [number, number], freeze) : variableOf(data, shape));
      }
    }
    return new Flamingo(config, paramsFrom(flamingoSpecs(config, lm.blocks.length), params), { lm, vision });
  } catch (error) {
    for (const p of params.values()) p.dispose();
    throw error;
  }
}

/** @throws Error naming both sides unless the parts have the sizes that the checkpoint was trained with */
function checkParts<C extends LMContext>(
  { form, what }: OpenFlamingoContents,
  { lm, vision }: FlamingoParts<C>,
  { image, endOfChunk }: FlamingoConfig['tokens'],
): void {
  const { hiddenSize, vocabSize, numLayers } = form.lm;
  const [fewest, most] = numLayers;
  if (lm.hiddenSize !== hiddenSize || lm.blocks.length < fewest || lm.blocks.length > most) {
    throw wrongLM(form, lm, what, 'their sizes differ');
  }
  if (lm.vocabSize < vocabSize) {
    throw new Error(
      `${what}: its embedding has ${vocabSize} rows, but that of the language model only ${lm.vocabSize}. ` +
        `Make room for the added tokens: loadCausalLM(folder, { vocabSize: ${vocabSize} }).`,
    );
  }
  for (const id of [image, endOfChunk]) {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize || image === endOfChunk) {
      throw new Error(
        `${what}: <image> and <|endofchunk|> must be two of its ${vocabSize} tokens, got ids ${image} and ${endOfChunk}. ` +
          'Add <|endofchunk|> and then <image> to the tokenizer of its language model, as OpenFlamingo does.',
      );
    }
  }
  const { visualSize } = form.resampler;
  if (vision && vision.featureDim !== visualSize) {
    throw new Error(
      `${what}: it was trained on features of width ${visualSize}, but the given vision encoder has ${vision.featureDim}. ` +
        "Published OpenFlamingo models use CLIP ViT-L/14 with OpenAI's weights, width 1024.",
    );
  }
}

function wrongLM(form: OpenFlamingoForm, lm: CausalLM<never>, what: string, why: string): Error {
  const { layers, numLayers, hiddenSize, vocabSize } = form.lm;
  const [fewest, most] = numLayers;
  const known = Object.entries(openFlamingoPresets).filter(([, { lm: knownLM, xattn }]) => {
    return knownLM.layers === layers && knownLM.hiddenSize === hiddenSize && xattn.every === form.xattn.every;
  });
  const from = known.map(([name, { lm: knownLM }]) => `${knownLM.name} if it is ${name}`);
  return new Error(
    `${what}: it was trained with a language model of ${fewest === most ? fewest : `${fewest} to ${most}`} blocks of width ` +
      `${hiddenSize} in ${layers}, resized to ${vocabSize} tokens; the given one has ${lm.blocks.length} blocks of width ` +
      `${lm.hiddenSize} with ${lm.vocabSize} tokens: ${why}. ` +
      `Load the one that it was trained with${from.length > 0 ? `: ${from.join(', ')}` : ''}.`,
  );
}

/** @throws Error listing, together, the tensors that are missing, unexpected or of another shape, by our names */
function checkShapes({ checkpoint, form, names, what }: OpenFlamingoContents, config: FlamingoConfig): void {
  // Renaming reads shapes only.
  const read = (stored: string) => ({ shape: checkpoint.info(stored).shape, data: new Float32Array(0) });
  const parts = [names.resampler, ...names.gated].map((part) => renamePart(part, read));
  const { tokenOffsets: _, ...shapes } = shapesOf(flamingoSpecs(config, form.lm.numLayers[0]));
  expectState(shapes, Object.assign({}, ...parts) as Record<string, FloatTensor>, { what: `${what} (by our names)` });
}

/** @throws Error if the other rows of the embedding are not the language model's */
async function tokenOffsets<C extends LMContext>(
  { checkpoint, names, form, what }: OpenFlamingoContents,
  lm: CausalLM<C>,
  ids: readonly number[],
): Promise<Float32Array> {
  const table = await readFloats(checkpoint, names.embedding);
  const { offsets, strays, compared } = await embeddingOffsets(lm, table.data, ids);
  if (strays.length === 0) return offsets;
  const why =
    `${strays.length} of ${compared} rows of the two embeddings differ, the first is that of token ${strays[0]}` +
    (strays.length <= ids.length ? ` (are ${ids.join(' and ')} the special tokens?)` : '');
  throw wrongLM(form, lm, what, why);
}

/** A tensor as float32. */
async function readFloats(checkpoint: OpenFlamingoCheckpoint, stored: string): Promise<FloatTensor> {
  const { shape, data } = await checkpoint.read(stored);
  return { shape, data: data instanceof Float32Array ? data : Float32Array.from(data, Number) };
}
