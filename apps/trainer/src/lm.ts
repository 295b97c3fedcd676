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
import type { Config } from './config';
import type { Objective } from './stage';
import type { TrainingData } from './training-data';

/** Tokens with a meaning of their own; `<image>` and `<EOC>` never occur in the text the language model learns from. */
export const IMAGE = '<image>';
export const END_OF_CHUNK = '<EOC>';
export const END_OF_TEXT = '<EOS>';
const SPECIAL_TOKENS = [END_OF_TEXT, IMAGE, END_OF_CHUNK];

/** Ids of the special tokens of a tokenizer made here. */
export function specialIds(tokenizer: Tokenizer): SpecialTokens {
  return {
    image: requireToken(tokenizer, IMAGE),
    endOfChunk: requireToken(tokenizer, END_OF_CHUNK),
    eos: requireToken(tokenizer, END_OF_TEXT),
    pad: requireToken(tokenizer, END_OF_TEXT),
  };
}

/** Learns a byte-level tokenizer from pages of the data. */
export function trainTokenizer(config: Config, data: TrainingData): TokenizerJson {
  const random = new Random(config.seed).fork('tokenizer');
  const pages = Array.from({ length: config.lm.tokenizerPages }, () => data.textPage(random));
  return trainByteLevelBPE(pages, { vocabSize: config.lm.model.vocabSize, specialTokens: SPECIAL_TOKENS });
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

  /** One to be trained here. */
  static create(model: Config['lm']['model'], tokenizerJson: TokenizerJson, random: Random): LanguageModel<Chinchilla> {
    const lm = new Chinchilla(model, initChinchilla(model, random.fork('chinchilla')));
    const tokenizer = loadTokenizer(tokenizerJson);
    return new LanguageModel(lm, tokenizer, specialIds(tokenizer));
  }

  /** One that was published, with the marks added to its tokens. */
  static async load(folder: string, precision: FrozenPrecision): Promise<LanguageModel> {
    const { lm, tokenizer, stopTokens } = await loadCausalLM(folder, {
      freeze: precision,
      addTokens: [IMAGE, END_OF_CHUNK],
    });
    const [eos] = stopTokens;
    if (eos === undefined) {
      throw new Error(
        `${folder}: neither generation_config.json nor config.json has an eos_token_id, which ends each text. ` +
          'Add the id of the token that the model ends texts with to config.json.',
      );
    }
    const image = requireToken(tokenizer!, IMAGE);
    const endOfChunk = requireToken(tokenizer!, END_OF_CHUNK);
    const [[plain], [first]] = [tokenizer!.encode('a'), tokenizer!.encode('a', { addSpecialTokens: true })];
    // What its template puts before a text, if anything; OPT's is its end of text too.
    const bos = first === plain ? {} : { bos: first };
    return new LanguageModel(lm, tokenizer!, { image, endOfChunk, eos, pad: eos, ...bos });
  }

  dispose(): void {
    this.lm.dispose();
  }
}

/** Next-token prediction on pages of text, each ended by `<EOS>` and cut to `maxTokens`. */
export function languageObjective(model: LanguageModel<Chinchilla>, config: Config, data: TrainingData): Objective {
  const { batch, maxTokens } = config.lm;
  const random = new Random(config.seed);
  const eos = requireToken(model.tokenizer, END_OF_TEXT);
  return {
    params: variables(model.lm.params),
    decays: (_, shape) => shape.length > 1,
    async prepare(step) {
      const own = random.fork(`lm ${step}`);
      const rows = Array.from({ length: batch }, () =>
        [...model.tokenizer.encode(data.textPage(own)), eos].slice(0, maxTokens + 1),
      );
      const text = nextTokenBatch(rows);
      return { losses: () => [{ name: 'text', weight: 1, loss: () => languageModelLoss(model.lm, text) }] };
    },
  };
}
