import { expect, it } from 'vitest';
import type { OptimizerConfig } from '../config/config';
import { learningRateOf } from './optimizer';

const config: OptimizerConfig = {
  steps: 12,
  learningRate: 2,
  schedule: 'linear',
  warmupSteps: 2,
  decayFrom: 1 / 3,
  finalShare: 0.5,
  beta1: 0.9,
  beta2: 0.95,
  weightDecay: 0,
  clipNorm: 1,
  checkpointEvery: 5,
};
const rates = (schedule?: OptimizerConfig['schedule']) => {
  const rate = learningRateOf({ ...config, ...(schedule && { schedule }) });
  return [0, 1, 2, 3, 4, 6, 8, 10, 12, 100].map((step) => +rate(step).toFixed(12));
};

// Two steps up, constant until step 4, and from there over eight steps down to half.
it('decays linearly by default', () => {
  expect(rates()).toEqual([1, 2, 2, 2, 2, 1.75, 1.5, 1.25, 1, 1]);
  expect(rates('linear')).toEqual(rates());
});

it('decays along half a cosine, with the same warm-up, constant part and end', () => {
  const [quarter, threeQuarters] = [1.5 + Math.SQRT1_2 / 2, 1.5 - Math.SQRT1_2 / 2].map((x) => +x.toFixed(12));
  expect(rates('cosine')).toEqual([1, 2, 2, 2, 2, quarter, 1.5, threeQuarters, 1, 1]);
});
