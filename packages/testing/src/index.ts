export { describeBackends, expectNoLeak, startsNative } from './backends';
export { expectClose, maxError, relativeError, type Tolerance, type Values } from './close';
export { checkGradient, type GradientCheck } from './gradient';
export { loadReference, stateFrom, type Reference } from './reference';
