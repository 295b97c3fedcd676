export { exactMatch, openFlamingoCaption, openFlamingoVqaAnswer, trimAnswer } from './answers';
export { ensembleScores, rankCandidates, rocAuc, type Ranking } from './choice';
export {
  evaluateFewShot,
  type AnswerGenerator,
  type CandidateScorer,
  type FewShotOptions,
  type FewShotResult,
  type FewShotTask,
  type SupportSelector,
} from './few-shot';
export {
  fewShotPrompt,
  openFlamingoTemplates,
  paperTemplates,
  promptImages,
  promptText,
  promptTokens,
  textOnly,
  type FewShotExample,
  type Prompt,
  type PromptFields,
  type PromptPart,
  type PromptTemplate,
  type PromptTokenizer,
} from './prompt';
export { Rices } from './rices';
export { normalizeVqaAnswer, processPunctuation, vqaAccuracy, type VqaAnswer, type VqaRule } from './vqa-metric';
