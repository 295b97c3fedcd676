export { loadConfig, parseConfig, type Config } from './config/config';
export { formatPlan, planTraining, type Plan } from './bench/plan';
export { openData, openJoint, pretrainLanguage, pretrainVision, trainJoint, type RunOptions } from './stages/recipe';
export { evaluate, type Evaluation, type EvalRow } from './eval/evaluate';
export { StopSignal } from './cli/stop-signal';
