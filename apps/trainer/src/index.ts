import { registerDataKind } from './data/data-kinds';
import { emojiDataKind } from './quickstart/emoji/data-kind';

export { loadConfig, parseConfig, type Config } from './config/config';
export { openData, registerDataKind, type DataKind } from './data/data-kinds';
export type { Questions, TrainingData } from './data/training-data';
export { formatPlan, planTraining, type Plan } from './bench/plan';
export { openJoint, pretrainLanguage, pretrainVision, trainJoint, type RunOptions } from './stages/recipe';
export { answerPrompt, type FewShotAnswer, type FewShotQuestion } from './eval/few-shot-answer';
export { evaluate, type Evaluation, type EvalRow } from './eval/evaluate';
export { StopSignal } from './cli/stop-signal';

registerDataKind(emojiDataKind);
