export { loadConfig, parseConfig, type Config } from './config';
export { formatPlan, planTraining, type Plan } from './plan';
export { openData, openJoint, pretrainLanguage, pretrainVision, trainJoint, type RunOptions } from './recipe';
export { evaluate, type Evaluation, type EvalRow } from './evaluate';
export { StopSignal } from './stop-signal';
