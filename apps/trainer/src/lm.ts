import { loadState, Random, variables, type StateTensor } from '@flamingo-ts/kernels';
import {
  checkVocabulary,
  languageModelLoss,
  loadTokenizer,
  nextTokenBatch,
  requireToken,
  trainByteLevelBPE,
  type Tokenizer,
  type TokenizerJson,
} from '@flamingo-ts/lm-core';
import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import type { Config } from './config';
import type { Objective } from './stage';
import type { TrainingData } from './training-data';

/** Tokens with a meaning of their own; `<image>` and `<EOC>` never occur in the text the language model learns from. */
export const IMAGE = '<image>';
export const END_OF_CHUNK = '<EOC>';
export const END_OF_TEXT = '<EOS>';
const SPECIAL_TOKENS = [END_OF_TEXT, IMAGE, END_OF_CHUNK];

/** Ids of the special tokens. */
export function specialIds(tokenizer: Tokenizer) {
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

/** A language model with its tokenizer. */
export class LanguageModel {
  constructor(
    readonly lm: Chinchilla,
    readonly tokenizer: Tokenizer,
    readonly tokenizerJson: TokenizerJson,
  ) {
    checkVocabulary(tokenizer, lm);
  }

  static create(model: Config['lm']['model'], tokenizerJson: TokenizerJson, random: Random): LanguageModel {
    const lm = new Chinchilla(model, initChinchilla(model, random.fork('chinchilla')));
    return new LanguageModel(lm, loadTokenizer(tokenizerJson), tokenizerJson);
  }

  /** The same for use without training: its matrices packed by the backend. */
  async freeze(): Promise<LanguageModel> {
    return new LanguageModel(await this.lm.freeze(), this.tokenizer, this.tokenizerJson);
  }

  dispose(): void {
    this.lm.dispose();
  }

  load(state: Readonly<Record<string, StateTensor>>, what: string): void {
    loadState(this.lm.params, state, { what });
  }
}

/** Next-token prediction on pages of text, each ended by `<EOS>` and cut to `maxTokens`. */
export function languageObjective(model: LanguageModel, config: Config, data: TrainingData): Objective {
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
