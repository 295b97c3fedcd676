export { type TextOptions } from './answer-text';
export { beamSearch, type BeamOptions, type Hypothesis } from './beam-search';
export { hiddenStates, type CausalLM, type LMBlock, type LMContext } from './causal-lm';
export { checkCausalLM, type CausalLMReport, type CheckOptions } from './check-causal-lm';
export { freezeLM, ParameterCollector, type FreezeOptions } from './frozen-lm';
export { generate, greedy, sample, type AnswerPiece, type GenerateOptions } from './generate';
export { KVCache, type LayerCache, type LayerBuffers } from './kv-cache';
export { logSoftmax } from './log-probs';
export { type RuleOptions } from './logits-rules';
export { countedLoss, countedRows, languageModelLoss, nextTokenBatch, type CountedRows, type TextBatch } from './loss';
export { filterLogits, type SamplingOptions } from './sample';
export { scoreCandidates, type CandidateScore } from './score-candidates';
export { sentencePieceTokenizer } from './sentencepiece';
export { DecodingSession, type ContextFactory, type ContextOption, type DecodingCall, type Stepper } from './session';
export {
  checkVocabulary,
  loadTokenizer,
  requireToken,
  withSpecialTokens,
  type AddedTokenJson,
  type EncodeOptions,
  type Tokenizer,
  type TokenizerJson,
} from './tokenizer';
export { trainByteLevelBPE, type BPEOptions } from './train-bpe';
