import {
  constantVariable,
  freezeParams,
  loadState,
  stateOf,
  type FrozenPrecision,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import {
  initInterleave,
  InterleavedLM,
  MediaContext,
  type InterleaveConfig,
  type InterleaveParams,
  type MediaLMContext,
} from '@flamingo-ts/gated-xattn';
import {
  countedLoss,
  countedRows,
  generate,
  hiddenStates,
  scoreCandidates,
  type CandidateScore,
  type CausalLM,
  type ContextFactory,
  type GenerateOptions,
  type Hypothesis,
  type LMContext,
} from '@flamingo-ts/lm-core';
import {
  initResampler,
  PerceiverResampler,
  type ResamplerConfig,
  type ResamplerParams,
} from '@flamingo-ts/perceiver-resampler';
import * as tf from '@tensorflow/tfjs-core';
import { TrainedTokens } from './trained-tokens';
import { visualFeatures, type VisionEncoder, type Visual } from './vision';

// --- Config and params ---

/** What joins a vision encoder and a language model. */
export interface FlamingoConfig {
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
  /** Ids of the two marks in the language model's vocabulary. */
  readonly tokens: { readonly image: number; readonly endOfChunk: number };
  /**
   * Whether the marks learn on the side of a head that is not the embedding too, without which the model hardly comes to end an
   * answer by `<EOC>`. For a language model that is a `SeparateHead`. Default false.
   */
  readonly separateHead?: boolean;
}

/** All that is trained; encoder and language model stay as they are. Paths joined by dots are names in a checkpoint. */
export type FlamingoParams = {
  readonly resampler: ResamplerParams;
  readonly xattn: InterleaveParams;
  /** `[2, hiddenSize]`, what training adds to the vectors of `<image>` and `<EOC>`. */
  readonly tokenOffsets: tf.Variable<tf.Rank.R2>;
  /** The same for their rows of a head that is apart. */
  readonly headOffsets?: tf.Variable<tf.Rank.R2>;
};

/** Fresh parameters for a language model of so many blocks. All gates are 0, so its output is at first unchanged. */
export function initFlamingo(config: FlamingoConfig, numLayers: number, random: Random): FlamingoParams {
  return {
    resampler: initResampler(config.resampler, random.fork('resampler')),
    xattn: initInterleave(config.xattn, numLayers, random.fork('xattn')),
    tokenOffsets: zeros([2, config.xattn.hiddenSize]),
    ...(config.separateHead && { headOffsets: zeros([2, config.xattn.hiddenSize]) }),
  };
}

const zeros = (shape: readonly [number, number]) => constantVariable(shape, 0) as tf.Variable<tf.Rank.R2>;

/** The frozen parts that Flamingo stands on. */
export interface FlamingoParts<C extends LMContext = LMContext> {
  readonly lm: CausalLM<C>;
  /** Needed only where images come as pixels. */
  readonly vision?: VisionEncoder;
}

// --- Data ---

/** Training data of one step; data-mixtures' `Batch` is of this shape. Rows are padded on the right. */
export interface FlamingoBatch {
  /** Number of rows. */
  readonly size: number;
  /** Tokens per row. */
  readonly text: number;
  /** Row-major `[size, text]`, as are the next two. */
  readonly tokens: Int32Array;
  /** How much each token counts as one to be predicted from those before it; 0: not at all. */
  readonly lossMask: ArrayLike<number>;
  /** The number of each token's image in its row, from 1; 0: none. */
  readonly mediaIndex: ArrayLike<number>;
  /** Absent: text alone. */
  readonly visual?: Visual;
}

/** What a prompt shows and says. */
export interface FlamingoPrompt {
  readonly tokens: readonly number[];
  /** Images in the order of the `<image>` tokens: a `Visual` without its batch axis. Absent: text alone. */
  readonly visual?: Visual;
  /** Each token's image, from 1; absent: that of the last `<image>` up to and including the token. */
  readonly mediaIndex?: ArrayLike<number>;
}

/** Images of some prompts, encoded once for all steps of decoding. */
export interface PreparedMedia<C extends LMContext = LMContext> {
  /** Makes the context of each call of `model.lm` on these prompts. */
  readonly context: ContextFactory<MediaLMContext<C>>;
  dispose(): void;
}

// --- Model ---

/** A language model that sees (Alayrac et al. 2022): encoder, resampler and a language model with gated blocks in it. */
export class Flamingo<C extends LMContext = LMContext> {
  /** The language model with gated blocks and trained marks: any tool for a `CausalLM` takes it. */
  readonly lm: InterleavedLM<C>;
  readonly resampler: PerceiverResampler;
  readonly vision: VisionEncoder | undefined;

  constructor(
    readonly config: FlamingoConfig,
    readonly params: FlamingoParams,
    private readonly parts: FlamingoParts<C>,
  ) {
    checkWidths(config, parts.vision);
    const { image, endOfChunk } = config.tokens;
    const lm = new TrainedTokens(parts.lm, [image, endOfChunk], params.tokenOffsets, params.headOffsets);
    this.lm = new InterleavedLM(lm, config.xattn, params.xattn);
    this.resampler = new PerceiverResampler(config.resampler, params.resampler);
    this.vision = parts.vision;
  }

  /**
   * The images as the gated blocks take them, from pixels or features to projected latents.
   *
   * @returns float32 `[batch, media, numLatents, xattn.visualSize]`
   */
  latents(visual: Visual): tf.Tensor4D {
    return tf.tidy(() => this.lm.projectMedia(this.resampler.apply(visualFeatures(visual, this.vision))));
  }

  /** The images of a batch with the index of its text: what a call of `lm` wants in its context. */
  encodeMedia(batch: Pick<FlamingoBatch, 'text' | 'mediaIndex' | 'visual'>): MediaContext | undefined {
    if (!batch.visual) return undefined;
    return new MediaContext(this.latents(batch.visual), batch.mediaIndex, batch.text);
  }

  /**
   * Mean cross-entropy of the tokens that count, 0 when none does: the term of one dataset in the paper's objective
   * (equation 2). For `tf.variableGrads(() => model.loss(batch), ...)` over the variables of `params`.
   *
   * The head sees only the positions that count, in pieces, so full logits never exist; of what is in the head, only the
   * trained marks get gradients.
   *
   * @param head variables of the language model's final norm and head that shall get gradients too, where those are trained
   */
  loss(batch: FlamingoBatch, head: Readonly<Record<string, tf.Variable>> = {}): tf.Scalar {
    const { size, text } = batch;
    for (const name of ['tokens', 'lossMask', 'mediaIndex'] as const) {
      if (batch[name].length !== size * text) {
        throw new Error(
          `Flamingo.loss: ${name} must hold ${size} rows x ${text} tokens = ${size * text} entries, got ${batch[name].length}. ` +
            'Pad all rows to one length.',
        );
      }
    }
    return tf.tidy(() => {
      const tokens = tf.tensor2d(batch.tokens, [size, text], 'int32');
      const context = { media: this.encodeMedia(batch) } as MediaLMContext<C>;
      const hidden = tf.reshape(hiddenStates(this.lm, tokens, context), [size * text, this.lm.hiddenSize]);
      const { tokenOffsets, headOffsets } = this.params;
      const marks = { tokenOffsets, ...(headOffsets && { headOffsets }) };
      return countedLoss(this.lm, hidden, countedRows(nextTokens(batch)), { ...head, ...marks });
    });
  }

  /** Continues each prompt, up to its first `<EOC>` unless `stopTokens` says otherwise. The stop token is included. */
  async generate(prompts: readonly FlamingoPrompt[], options: GenerateOptions): Promise<Hypothesis[]> {
    const media = this.prepare(prompts);
    const stopTokens = options.stopTokens ?? [this.config.tokens.endOfChunk];
    const settings = { ...options, stopTokens, context: media.context };
    try {
      return await generate<MediaLMContext<C>>(this.lm, tokensOf(prompts), settings as never);
    } finally {
      media.dispose();
    }
  }

  /**
   * How likely each candidate answer is after its prompt (sum and mean log-likelihood); the prompt is read once.
   *
   * @param candidates for each prompt the token ids of its candidates
   */
  async score(
    prompts: readonly FlamingoPrompt[],
    candidates: readonly (readonly (readonly number[])[])[],
  ): Promise<CandidateScore[][]> {
    const media = this.prepare(prompts);
    const options = { context: media.context };
    try {
      return await scoreCandidates<MediaLMContext<C>>(this.lm, tokensOf(prompts), candidates, options as never);
    } finally {
      media.dispose();
    }
  }

  /**
   * Encodes the images of prompts and computes their keys and values for all gated blocks, once for a whole decoding.
   * What is generated looks at the last image of its prompt. For decoding by hand, with lm-core's `DecodingSession`.
   */
  prepare(prompts: readonly FlamingoPrompt[]): PreparedMedia<C> {
    const visual = stackVisuals(prompts);
    if (!visual) return { context: ({ base }) => base as MediaLMContext<C>, dispose: () => undefined };
    const indices = prompts.map((prompt) => this.mediaIndexOf(prompt));
    const latents = this.latents(visual);
    const keysValues = this.lm.mediaKeysValues(latents);
    return {
      context: ({ base, tokens, prompts: owners, padding, past }) => {
        const text = tokens[0]!.length;
        const mediaIndex = owners.flatMap((prompt, row) => {
          const index = indices[prompt]!;
          if (past > 0) return new Array<number>(text).fill(index.at(-1)!);
          return [...new Array<number>(padding[row]!).fill(0), ...index];
        });
        const media = new MediaContext(latents, mediaIndex, text, { owners, keysValues });
        return { ...base, media } as MediaLMContext<C>;
      },
      dispose: () => tf.dispose([latents, ...keysValues.flatMap(({ keys, values }) => [keys, values])]),
    };
  }

  /**
   * The same model for answering without training: the matrices of resampler and gated blocks packed by the backend, which
   * for single tokens is what decides the speed. Variables that it replaces are freed, so this object must not be used any
   * more. (Encoder and language model have a `freeze` of their own.)
   */
  async freeze(precision: FrozenPrecision = 'float32'): Promise<Flamingo<C>> {
    const { resampler, xattn, ...marks } = this.params;
    const isMatrix = (name: string, { rank }: tf.Variable) => rank === 2 && name.endsWith('.weight');
    const params = {
      resampler: await freezeParams(resampler, isMatrix, precision),
      xattn: await freezeParams(xattn, isMatrix, precision),
      ...marks,
    };
    return new Flamingo(this.config, params, this.parts);
  }

  /** Values of everything trained, by name. */
  state(): Promise<Record<string, StateTensor>> {
    return stateOf(this.params);
  }

  /** Sets everything trained. @param what named in errors: the file */
  load(state: Readonly<Record<string, StateTensor>>, what = 'Flamingo.load'): void {
    loadState(this.params, state, { what });
  }

  private mediaIndexOf({ tokens, mediaIndex, visual }: FlamingoPrompt): number[] {
    let seen = 0;
    const index = mediaIndex
      ? Array.from(mediaIndex)
      : tokens.map((token) => (token === this.config.tokens.image ? ++seen : seen));
    const media = visual?.shape[0] ?? 0;
    const last = Math.max(0, ...index);
    if (index.length !== tokens.length || last > media) {
      throw new Error(
        `Flamingo: a prompt of ${tokens.length} tokens needs as many media indices, none above its ${media} images, ` +
          `got ${index.length} up to ${last}. Give one image for each <image> token.`,
      );
    }
    return index;
  }
}

function checkWidths({ resampler, xattn }: FlamingoConfig, vision: VisionEncoder | undefined): void {
  const latents = xattn.latentSize ?? xattn.visualSize;
  if (resampler.visualSize !== latents) {
    throw new Error(
      `Flamingo: the gated blocks take latents of width ${latents}, but the resampler's visualSize is ${resampler.visualSize}. ` +
        'Make them equal, or set xattn.latentSize.',
    );
  }
  const features = resampler.inputSize ?? resampler.visualSize;
  if (vision && vision.featureDim !== features) {
    throw new Error(
      `Flamingo: the resampler takes features of width ${features}, but the vision encoder gives ${vision.featureDim}. ` +
        `Set resampler.inputSize: ${vision.featureDim}.`,
    );
  }
}

/** For each position the token to be predicted there, the next one, and what it counts. */
function nextTokens({ tokens, lossMask, text }: FlamingoBatch): { targets: Int32Array; weights: Float32Array } {
  const targets = new Int32Array(tokens.length);
  const weights = new Float32Array(tokens.length);
  for (let i = 1; i < tokens.length; i++) {
    if (i % text === 0) continue; // The first token of a row follows nothing.
    targets[i - 1] = tokens[i]!;
    weights[i - 1] = lossMask[i]!;
  }
  return { targets, weights };
}

function tokensOf(prompts: readonly FlamingoPrompt[]): (readonly number[])[] {
  return prompts.map(({ tokens }) => tokens);
}

/** Images of all prompts as one batch, filled up with zeros; undefined when there are none. */
function stackVisuals(prompts: readonly FlamingoPrompt[]): Visual | undefined {
  const first = prompts.find(({ visual }) => visual)?.visual;
  if (!first) return undefined;
  const each = first.shape.slice(1);
  const size = each.reduce((a, b) => a * b, 1);
  const media = Math.max(...prompts.map(({ visual }) => visual?.shape[0] ?? 0));
  const data = new Float32Array(prompts.length * media * size);
  prompts.forEach(({ visual }, i) => {
    if (!visual) return;
    if (visual.kind !== first.kind || visual.shape.slice(1).join() !== each.join()) {
      throw new Error(
        `Flamingo: the images of prompts that run together must be of one kind and size, got ${first.kind} [media, ${each.join(', ')}] ` +
          `and ${visual.kind} [${visual.shape.join(', ')}]. Run such prompts one by one.`,
      );
    }
    data.set(visual.data, i * media * size);
  });
  return { kind: first.kind, shape: [prompts.length, media, ...each], data };
}
