import type { SpecialTokens } from '@flamingo-ts/data-mixtures';
import { Random, variables, type FrozenPrecision } from '@flamingo-ts/kernels';
import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import {
  checkVocabulary,
  languageModelLoss,
  loadTokenizer,
  nextTokenBatch,
  requireToken,
  trainByteLevelBPE,
  type CausalLM,
  type Tokenizer,
  type TokenizerJson,
} from '@flamingo-ts/lm-core';
import { loadCausalLM } from '@flamingo-ts/lm-hf';
import type { Config } from '../config/config';
import * as tf from '@tensorflow/tfjs-core';
import { PackedText, type TextCursor } from './packed-text';
import type { ValidationMetrics } from './metrics';
import type { Objective } from './stage';
import type { TrainingData } from '../data/training-data';

/** Special tokens. `<image>` and `<EOC>` never occur in the text that the language model learns from. */
export const IMAGE = '<image>';
export const END_OF_CHUNK = '<EOC>';
export const END_OF_TEXT = '<EOS>';
export const BEGIN_OF_TEXT = '<BOS>';
const SPECIAL_TOKENS = [END_OF_TEXT, IMAGE, END_OF_CHUNK];

/** Ids of the special tokens of a tokenizer that `trainTokenizer` made. */
export function specialIds(tokenizer: Tokenizer): SpecialTokens {
  const bos = tokenizer.tokenId(BEGIN_OF_TEXT);
  return {
    ...(bos !== undefined && { bos }),
    image: requireToken(tokenizer, IMAGE),
    endOfChunk: requireToken(tokenizer, END_OF_CHUNK),
    eos: requireToken(tokenizer, END_OF_TEXT),
    pad: requireToken(tokenizer, END_OF_TEXT),
  };
}

/** Trains a byte-level BPE tokenizer on pages of the data. */
export function trainTokenizer(config: Config, data: TrainingData): TokenizerJson {
  const random = new Random(config.seed).fork('tokenizer');
  const pages = Array.from({ length: config.lm.tokenizerPages }, () => data.textPage(random));
  const specialTokens = [...SPECIAL_TOKENS, ...(config.lm.bos ? [BEGIN_OF_TEXT] : [])];
  return trainByteLevelBPE(pages, { vocabSize: config.lm.model.vocabSize, specialTokens });
}

type DisposableLM = CausalLM & { dispose(): void };

/** A language model with its tokenizer. */
export class LanguageModel<M extends DisposableLM = DisposableLM> {
  constructor(
    readonly lm: M,
    readonly tokenizer: Tokenizer,
    readonly special: SpecialTokens,
  ) {
    checkVocabulary(tokenizer, lm);
  }

  /** A new model with random weights. */
  static create(model: Config['lm']['model'], tokenizerJson: TokenizerJson, random: Random): LanguageModel<Chinchilla> {
    const lm = new Chinchilla(model, initChinchilla(model, random.fork('chinchilla')));
    const tokenizer = loadTokenizer(tokenizerJson);
    return new LanguageModel(lm, tokenizer, specialIds(tokenizer));
  }

  /** Loads a published model and adds `<image>` and `<EOC>` to its tokens. */
  static async load(folder: string, precision: FrozenPrecision): Promise<LanguageModel> {
    const { lm, tokenizer, stopTokens } = await loadCausalLM(folder, {
      freeze: precision,
      addTokens: [IMAGE, END_OF_CHUNK],
    });
    const [eos] = stopTokens;
    if (eos === undefined) {
      throw new Error(
        `${folder}: expected an eos_token_id in generation_config.json or config.json, got none. ` +
          'Add the id of the token that ends a text to config.json.',
      );
    }
    const image = requireToken(tokenizer!, IMAGE);
    const endOfChunk = requireToken(tokenizer!, END_OF_CHUNK);
    const [[plain], [first]] = [tokenizer!.encode('a'), tokenizer!.encode('a', { addSpecialTokens: true })];
    // The token that its template puts before a text, if any. For OPT this is also the end-of-text token.
    const bos = first === plain ? {} : { bos: first };
    return new LanguageModel(lm, tokenizer!, { image, endOfChunk, eos, pad: eos, ...bos });
  }

  dispose(): void {
    this.lm.dispose();
  }
}

/**
 * Next-token prediction on text. Each document starts with `<BOS>`, if the tokenizer has one, and ends with `<EOS>`. A row
 * is one document truncated to `maxTokens` or, with `packed`, a part of one stream of documents without padding.
 */
export function languageObjective(model: LanguageModel<Chinchilla>, config: Config, data: TrainingData): Objective {
  const { seed } = config;
  const { batch, maxTokens, packed } = config.lm;
  const { bos, eos } = model.special;
  const tokensOf = (text: string) => [...(bos === undefined ? [] : [bos]), ...model.tokenizer.encode(text), eos];
  const texts = data.validation?.texts ?? [];
  const learns = {
    params: variables(model.lm.params),
    decays: (_: string, shape: readonly number[]) => shape.length > 1,
    ...(texts.length > 0 && { validate: () => Promise.resolve(validate()) }),
  };
  /** Loss per token of the validation texts. */
  const validate = (): ValidationMetrics => {
    let [sum, tokens] = [0, 0];
    for (let start = 0; start < texts.length; start += batch) {
      const rows = texts.slice(start, start + batch).map((text) => tokensOf(text).slice(0, maxTokens + 1));
      const count = rows.reduce((n, row) => n + row.length - 1, 0);
      const [loss] = tf.tidy(() => languageModelLoss(model.lm, nextTokenBatch(rows)).dataSync());
      sum += loss! * count;
      tokens += count;
    }
    return { loss: sum / tokens };
  };
  const losses = (rows: readonly (readonly number[])[]) => {
    const text = nextTokenBatch(rows);
    return () => [{ name: 'text', weight: 1, loss: () => languageModelLoss(model.lm, text) }];
  };
  if (packed) {
    const document = async (place: number) => {
      const text = await data.textAt(place, seed);
      return text === '' ? [] : tokensOf(text);
    };
    let stream = new PackedText(document);
    return {
      ...learns,
      resume(cursor) {
        stream = new PackedText(document, cursor as TextCursor);
      },
      async prepare() {
        const { rows, cursor } = await stream.next(batch, maxTokens + 1);
        return { losses: losses(rows), cursor };
      },
      // Rows are built on this thread, so they must be complete before a step computes.
      whenDispatched: () => stream.whenDone(),
    };
  }
  const random = new Random(seed);
  return {
    ...learns,
    async prepare(step) {
      const stepRandom = random.fork(`lm ${step}`);
      const rows = Array.from({ length: batch }, () => tokensOf(data.textPage(stepRandom)).slice(0, maxTokens + 1));
      return { losses: losses(rows) };
    },
  };
}
