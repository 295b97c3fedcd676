import { openCheckpoint, openTorchCheckpoint, type FloatTensor, type OpenCheckpoint } from '@flamingo-ts/checkpoint';
import { gatedXAttnFromOpenFlamingo, interleaveShapes, type InterleaveConfig } from '@flamingo-ts/gated-xattn';
import {
  expectState,
  FrozenMatrix,
  variableOf,
  type FrozenPrecision,
  type Parameter,
  type ParamTree,
} from '@flamingo-ts/kernels';
import type { CausalLM, LMContext } from '@flamingo-ts/lm-core';
import { resamplerFromOpenFlamingo, resamplerShapes, type ResamplerConfig } from '@flamingo-ts/perceiver-resampler';
import * as tf from '@tensorflow/tfjs-core';
import { FirstTokens } from './first-tokens';
import { Flamingo, type FlamingoConfig, type FlamingoParams, type FlamingoParts } from './flamingo';
import { openFlamingoHeadDim, openFlamingoPresets } from './open-flamingo-presets';

// --- What a checkpoint says of itself ---

/** The parts a checkpoint was trained with, and what no shape tells. */
export interface OpenFlamingoOptions<C extends LMContext = LMContext> extends FlamingoParts<C> {
  /** Ids of `<image>` and `<|endofchunk|>`: OpenFlamingo adds the latter to the tokenizer first, then the former. */
  readonly tokens: FlamingoConfig['tokens'];
  /** Width of the attention heads of resampler and gated blocks. Default 64, that of all published models. */
  readonly headDim?: number;
  /** Packs the matrices of resampler and gated blocks as they are read, for answering without training. */
  readonly freeze?: FrozenPrecision;
}

/** An open checkpoint, or anything else whose tensors are read one by one. */
export type OpenFlamingoCheckpoint = Pick<OpenCheckpoint, 'names' | 'info' | 'read'>;

/** What the names and shapes of an OpenFlamingo checkpoint tell. */
export interface OpenFlamingoForm {
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
  /** The language model it was trained with. */
  readonly lm: {
    /** Path of its list of blocks in OpenFlamingo's names: `transformer.blocks`. */
    readonly layers: string;
    /** Fewest and most blocks with which the gated ones are where they are. */
    readonly numLayers: readonly [fewest: number, most: number];
    readonly hiddenSize: number;
    /** Rows of its embedding as OpenFlamingo resized it: the size of the tokenizer with the tokens added. */
    readonly vocabSize: number;
  };
}

/** Names of an open checkpoint by its parts. */
interface Contents {
  readonly checkpoint: OpenFlamingoCheckpoint;
  readonly what: string;
  /** Stored names by OpenFlamingo's names within the resampler. */
  readonly resampler: ReadonlyMap<string, string>;
  /** Language layers with a gated block in front, and the stored names by those within the block, in order. */
  readonly gated: readonly (readonly [layer: number, names: ReadonlyMap<string, string>])[];
  readonly layers: string;
  /** Stored name of the embedding. */
  readonly embedding: string;
  readonly form: OpenFlamingoForm;
}

/**
 * Reads off a checkpoint's names and shapes what it is; no weights are read.
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

const EMBEDDING = /^lang_encoder\.(?:.+\.)?(?:wte|embed_in|embed_tokens)\.weight$/;
const GATED = /^lang_encoder\.(.+)\.(\d+)\.gated_cross_attn_layer\.(.+)$/;

function contentsOf(checkpoint: OpenFlamingoCheckpoint, headDim: number, what: string): Contents {
  const resampler = new Map<string, string>();
  const gated = new Map<number, Map<string, string>>();
  const paths = new Set<string>();
  let embedding: string | undefined;
  // The frozen models are in some checkpoints, those of 4B, and not in others: they are not looked at.
  for (const stored of checkpoint.names) {
    const name = stored.replace(/^module\./, ''); // Of the wrapper for training on many devices.
    if (name.startsWith('perceiver.')) resampler.set(name.slice('perceiver.'.length), stored);
    if (EMBEDDING.test(name)) embedding ??= stored;
    const [, path, layer, part] = GATED.exec(name) ?? [];
    if (path === undefined || layer === undefined || part === undefined) continue;
    paths.add(path);
    gated.set(Number(layer), (gated.get(Number(layer)) ?? new Map<string, string>()).set(part, stored));
  }
  const missing = [
    resampler.size > 0 ? [] : ['the resampler (perceiver.*)'],
    gated.size > 0 ? [] : ['the gated blocks (lang_encoder.*.gated_cross_attn_layer.*)'],
    embedding !== undefined ? [] : ['the embedding (lang_encoder.*.wte, embed_in or embed_tokens)'],
  ].flat();
  if (missing.length > 0 || embedding === undefined) {
    throw new Error(
      `${what}: an OpenFlamingo checkpoint holds resampler, gated blocks and embedding; of its ${checkpoint.names.length} ` +
        `tensors (${checkpoint.names.slice(0, 3).join(', ')}, ...) none is of ${missing.join(', of ')}. ` +
        'Give the state dict of a whole OpenFlamingo model, as its training script saves it.',
    );
  }
  if (paths.size > 1) {
    throw new Error(
      `${what}: gated blocks must be in one list of layers, got ${[...paths].join(' and ')}. Give the state dict of one model.`,
    );
  }
  const blocks = [...gated].sort(([a], [b]) => a - b);
  const layers = [...paths][0]!;
  const contents = { checkpoint, what, resampler, gated: blocks, layers, embedding };
  return { ...contents, form: formOf(contents, headDim) };
}

function formOf(
  { checkpoint, what, resampler, gated, layers, embedding }: Omit<Contents, 'form'>,
  headDim: number,
): OpenFlamingoForm {
  /** Shape of a tensor of two or more axes, by its name within its part. */
  const shape = (names: ReadonlyMap<string, string>, name: string, part: string): readonly number[] => {
    const stored = names.get(name);
    const found = stored === undefined ? undefined : checkpoint.info(stored).shape;
    if (found && found.length > 1) return found;
    throw new Error(
      `${what}: ${part} must have a matrix ${name}, got ${found ? `[${found.join(', ')}]` : 'none'}. ` +
        'Fetch the checkpoint again: OpenFlamingo saves one.',
    );
  };
  const heads = (inner: number, part: string): number => {
    if (inner % headDim === 0) return inner / headDim;
    throw new Error(
      `${what}: ${part} has queries of width ${inner}, no multiple of headDim ${headDim}. Give the headDim it was trained with.`,
    );
  };
  const perceiver = (name: string) => shape(resampler, name, 'the resampler');
  const [numLatents, visualSize] = perceiver('latents') as [number, number];
  const optional = (name: string) => (resampler.has(name) ? perceiver(name)[0] : undefined);
  const [numFrames, numMedia] = [optional('frame_embs'), optional('media_time_embs')];
  // Counted, as the largest number among names may be any.
  const layersThere = new Set([...resampler.keys()].flatMap((name) => /^layers\.\d+\./.exec(name) ?? []));
  const [first, names] = gated[0]!;
  const block = (name: string) => shape(names, name, `the gated block of layer ${first}`);
  const [inner, hiddenSize] = block('attn.to_q.weight') as [number, number];
  const every = first + 1;
  const [vocabSize, width] = checkpoint.info(embedding).shape;
  const stray = gated.find(([layer], i) => layer !== (i + 1) * every - 1);
  if (stray) {
    throw new Error(
      `${what}: gated blocks must stand before every ${every}th layer, as the first does, got them before layers ` +
        `${gated.map(([layer]) => layer).join(', ')} of ${layers}, counted from 0. Fetch the checkpoint again.`,
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
      numLayers: layersThere.size,
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
    lm: { layers, numLayers: [gated.length * every, (gated.length + 1) * every - 1], hiddenSize, vocabSize },
  };
}

// --- Loading ---

/**
 * An OpenFlamingo model from its checkpoint and the two models that it was trained on. The checkpoint says all sizes; of
 * its language model only the embedding is looked at, to see that it is the one given and what its marks have learned.
 *
 * The tokenizer may be smaller than the embedding of the language model, as it is with MPT and GPT-NeoX. OpenFlamingo then
 * cuts the embedding, and so does the model that is returned. Where the head is not the embedding, OpenFlamingo does
 * not train it, and it stays the language model's own.
 *
 * @param checkpoint path of a `.pt` file, or of what `openCheckpoint` takes; or an open checkpoint, which stays open
 * @param options    the parts, which the model shares with the caller; ids of the marks
 * @throws Error naming both sides where the language model or the encoder is another than the checkpoint's, and listing
 *         what is missing, unexpected or misshapen in the checkpoint
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
  const { form } = contents;
  checkParts(contents, { lm: whole, vision }, tokens);
  checkShapes(contents);
  const vocabSize = form.lm.vocabSize;
  const lm = vocabSize < whole.vocabSize ? new FirstTokens(whole, vocabSize) : whole;
  const params = new Map<string, Parameter>();
  const put = (prefix: string, part: Readonly<Record<string, FloatTensor>>) => {
    for (const [name, { shape, data }] of Object.entries(part)) {
      const packed = freeze && shape.length === 2 && name.endsWith('.weight');
      params.set(
        `${prefix}.${name}`,
        packed ? new FrozenMatrix(data, shape as [number, number], freeze) : variableOf(data, shape),
      );
    }
  };
  try {
    const offsets = await markOffsets(contents, whole, [tokens.image, tokens.endOfChunk]);
    params.set('tokenOffsets', variableOf(offsets, [2, form.lm.hiddenSize]));
    put('resampler', resamplerFromOpenFlamingo(await floats(checkpoint, contents.resampler)));
    for (const [i, [, names]] of contents.gated.entries()) {
      put(`xattn.blocks.${i}`, gatedXAttnFromOpenFlamingo(await floats(checkpoint, names)));
    }
    const { resampler, xattn } = form;
    return new Flamingo({ resampler, xattn, tokens }, treeOf(params) as unknown as FlamingoParams, { lm, vision });
  } catch (error) {
    for (const p of params.values()) p.dispose();
    throw error;
  }
}

/** @throws Error naming both sides unless the parts are as large as those that the checkpoint was trained with */
function checkParts<C extends LMContext>(
  { form, what }: Contents,
  { lm, vision }: FlamingoParts<C>,
  { image, endOfChunk }: FlamingoConfig['tokens'],
): void {
  const { hiddenSize, vocabSize, numLayers } = form.lm;
  const [fewest, most] = numLayers;
  if (lm.hiddenSize !== hiddenSize || lm.blocks.length < fewest || lm.blocks.length > most) {
    throw otherLM(form, lm, what, 'their sizes differ');
  }
  if (lm.vocabSize < vocabSize) {
    throw new Error(
      `${what}: its embedding has ${vocabSize} rows, that of the language model only ${lm.vocabSize}. ` +
        `Make room for the tokens that were added: loadCausalLM(folder, { vocabSize: ${vocabSize} }).`,
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
      `${what}: it was trained on features of width ${visualSize}, the vision encoder given has ${vision.featureDim}. ` +
        "Published OpenFlamingo models take CLIP ViT-L/14 with OpenAI's weights, width 1024.",
    );
  }
}

function otherLM(form: OpenFlamingoForm, lm: CausalLM<never>, what: string, why: string): Error {
  const { layers, numLayers, hiddenSize, vocabSize } = form.lm;
  const [fewest, most] = numLayers;
  const known = Object.entries(openFlamingoPresets).filter(([, { lm: own, xattn }]) => {
    return own.layers === layers && own.hiddenSize === hiddenSize && xattn.every === form.xattn.every;
  });
  const from = known.map(([name, { lm: own }]) => `${own.name} if it is ${name}`);
  return new Error(
    `${what}: it was trained with a language model of ${fewest === most ? fewest : `${fewest} to ${most}`} blocks of width ` +
      `${hiddenSize} in ${layers}, cut or grown to ${vocabSize} tokens; given was one of ${lm.blocks.length} blocks of width ` +
      `${lm.hiddenSize} with ${lm.vocabSize} tokens: ${why}. ` +
      `Load the one that it was trained with${from.length > 0 ? `: ${from.join(', ')}` : ''}.`,
  );
}

/** @throws Error listing, together, what is missing, unexpected or of another shape, by our names */
function checkShapes({ checkpoint, form, gated, resampler, what }: Contents): void {
  // Renaming needs shapes alone.
  const shapes = (names: ReadonlyMap<string, string>) =>
    Object.fromEntries(
      [...names].map(([name, stored]) => [name, { shape: checkpoint.info(stored).shape, data: new Float32Array(0) }]),
    );
  const state: Record<string, FloatTensor> = {};
  const put = (prefix: string, part: Readonly<Record<string, FloatTensor>>) => {
    for (const [name, tensor] of Object.entries(part)) state[`${prefix}.${name}`] = tensor;
  };
  put('resampler', resamplerFromOpenFlamingo(shapes(resampler)));
  gated.forEach(([, names], i) => put(`xattn.blocks.${i}`, gatedXAttnFromOpenFlamingo(shapes(names))));
  const want: Record<string, readonly number[]> = {};
  for (const [name, shape] of Object.entries(resamplerShapes(form.resampler))) want[`resampler.${name}`] = shape;
  const fewest = form.lm.numLayers[0];
  for (const [name, shape] of Object.entries(interleaveShapes(form.xattn, fewest))) want[`xattn.${name}`] = shape;
  expectState(want, state, { what: `${what} (by our names)` });
}

/** Rows of the language model's embedding that are looked at at a time. */
const rowsAtATime = 1024;
/** Bounds of the relative error of a rounding to bfloat16, and of some to float32. */
const bfloat16Step = 2 ** -8;
const float32Step = 2 ** -20;

/** What training added to the marks' rows of the embedding; the other rows must be the language model's own. */
async function markOffsets<C extends LMContext>(
  { checkpoint, embedding, form, what }: Contents,
  lm: CausalLM<C>,
  marks: readonly number[],
): Promise<Float32Array> {
  const { hiddenSize: width, vocabSize } = form.lm;
  const { data } = (await floats(checkpoint, new Map([['embedding', embedding]])))['embedding']!;
  const rowOf = (row: number) => data.subarray(row * width, (row + 1) * width);
  // The last row is perhaps that of a token to pad with: OpenFlamingo adds one after the marks, and does not train it.
  const isPadding = (row: number) => row === vocabSize - 1 && row > Math.max(...marks);
  /** Rows that training left alone and that differ, once `shift` is taken from what the language model gives. */
  const differing = async (shift: ArrayLike<number>): Promise<number[]> => {
    const found: number[] = [];
    for (let from = 0; from < vocabSize; from += rowsAtATime) {
      const own = await embedded(lm, from, Math.min(from + rowsAtATime, vocabSize));
      for (let at = 0; at < own.length; at += width) {
        const row = from + at / width;
        if (marks.includes(row) || isPadding(row)) continue;
        if (!isSameRow(own.subarray(at, at + width), rowOf(row), shift, bfloat16Step)) found.push(row);
      }
    }
    return found;
  };
  let shift: ArrayLike<number> = new Float32Array(width);
  let others = await differing(shift);
  if (others.length > 0) {
    // Models with learned positions give the embedding with the vector of the first position added.
    const candidate = commonDifference(await embedded(lm, 0, Math.min(rowsAtATime, vocabSize)), data, width);
    const left = await differing(candidate);
    if (left.length < others.length) [shift, others] = [candidate, left];
  }
  if (others.length > 0) {
    const compared = vocabSize - marks.length - (isPadding(vocabSize - 1) ? 1 : 0);
    const why =
      `${others.length} of ${compared} rows of the two embeddings differ, the first is that of token ${others[0]}` +
      (others.length <= marks.length ? ` (are ${marks.join(' and ')} the marks?)` : '');
    throw otherLM(form, lm, what, why);
  }
  const offsets = new Float32Array(marks.length * width);
  for (const [i, mark] of marks.entries()) {
    const own = await embedded(lm, mark, mark + 1);
    // A row that was not trained stays the language model's to the bit.
    if (isSameRow(own, rowOf(mark), shift, float32Step)) continue;
    for (let j = 0; j < width; j++) offsets[i * width + j] = rowOf(mark)[j]! - (own[j]! - shift[j]!);
  }
  return offsets;
}

/** What most rows of a table have more than those of another: for each column the median of the differences. */
function commonDifference(own: Float32Array, rows: Float32Array, width: number): Float32Array {
  const count = own.length / width;
  return Float32Array.from({ length: width }, (_, j) => {
    const differences = Float32Array.from({ length: count }, (__, i) => own[i * width + j]! - rows[i * width + j]!);
    return differences.sort()[Math.floor(count / 2)]!;
  });
}

/** Equal but for roundings to `step`, of each value, or of the largest where there is a shift, which has an error too. */
function isSameRow(own: Float32Array, row: Float32Array, shift: ArrayLike<number>, step: number): boolean {
  const largest = Math.max(...row.map(Math.abs));
  return row.every((value, j) => {
    const by = shift[j]!;
    const error = Math.abs(own[j]! - by - value);
    return error <= step * (by === 0 ? Math.abs(value) : Math.max(largest, Math.abs(by)));
  });
}

/** What a language model makes of single tokens of these ids, `[to - from, hiddenSize]` flattened. */
async function embedded<C extends LMContext>(lm: CausalLM<C>, from: number, to: number): Promise<Float32Array> {
  const rows = tf.tidy(() => {
    const ids = Int32Array.from({ length: to - from }, (_, i) => from + i);
    return lm.embed(tf.tensor2d(ids, [to - from, 1], 'int32'), {} as C);
  });
  const values = (await rows.data()) as Float32Array;
  rows.dispose();
  return values;
}

/** Tensors as float32, by the names that the map gives their stored names. */
async function floats(checkpoint: OpenFlamingoCheckpoint, names: ReadonlyMap<string, string>) {
  const state: Record<string, FloatTensor> = {};
  for (const [name, stored] of names) {
    const { shape, data } = await checkpoint.read(stored);
    state[name] = { shape, data: data instanceof Float32Array ? data : Float32Array.from(data, Number) };
  }
  return state;
}

/** A tree of parameters from their dotted names; numbers are places in a list. */
function treeOf(params: ReadonlyMap<string, Parameter>): ParamTree {
  const own = params.get('');
  if (own) return own;
  const below = new Map<string, Map<string, Parameter>>();
  for (const [name, param] of params) {
    const [key, ...rest] = name.split('.') as [string, ...string[]];
    below.set(key, (below.get(key) ?? new Map<string, Parameter>()).set(rest.join('.'), param));
  }
  const children = [...below].map(([key, inside]) => [key, treeOf(inside)] as const);
  if (!children.every(([key]) => /^\d+$/.test(key))) return Object.fromEntries(children);
  return children.sort(([a], [b]) => Number(a) - Number(b)).map(([, child]) => child);
}
