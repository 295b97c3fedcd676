import { expect, it } from 'vitest';
import { adamW, adaptiveGradientClip, addDecayedWeights, clipByGlobalNorm, sgd } from './index';
import { constantSchedule, cosineSchedule, linearSchedule, rateAt, switchAt } from './schedules';

const rate = { learningRate: 0.1 };

it.each<[string, () => unknown]>([
  ['adamW: beta1 must be a number of at least 0 and less than 1, got 1.', () => adamW({ ...rate, beta1: 1 })],
  ['adamW: beta2 must be a number of at least 0 and less than 1, got -0.1.', () => adamW({ ...rate, beta2: -0.1 })],
  ['adamW: epsilon must be a finite number greater than 0, got 0.', () => adamW({ ...rate, epsilon: 0 })],
  ['adamW: weightDecay must be a finite number of at least 0, got NaN.', () => adamW({ ...rate, weightDecay: NaN })],
  ['adamW: clipNorm must be a finite number greater than 0, got 0.', () => adamW({ ...rate, clipNorm: 0 })],
  [
    'adamW: learningRate must be a finite number greater than 0 or a function, got 0.',
    () => adamW({ learningRate: 0 }),
  ],
  [
    'adamW: learningRate must be a finite number greater than 0 or a function, got Infinity.',
    () => adamW({ learningRate: Infinity }),
  ],
  [
    'adamW: learningRate must be a finite number greater than 0 or a function, got "0.1".',
    () => adamW({ learningRate: '0.1' as never }),
  ],
  ['adamW: betas is not a known key', () => adamW({ ...rate, betas: [0.9, 0.99] } as never)],
  ['sgd: momentum must be a number of at least 0 and less than 1, got 1.', () => sgd({ ...rate, momentum: 1 })],
  ['sgd: nesterov must be true or false, got "yes".', () => sgd({ ...rate, nesterov: 'yes' as never })],
  ['sgd: learningRate must be', () => sgd({} as never)],
  ['clipByGlobalNorm: maxNorm must be a finite number greater than 0, got -1.', () => clipByGlobalNorm(-1)],
  ['addDecayedWeights: weightDecay must be a finite number of at least 0, got -1.', () => addDecayedWeights(-1)],
  [
    'adaptiveGradientClip: factor must be a finite number greater than 0, got 0.',
    () => adaptiveGradientClip({ factor: 0 }),
  ],
  [
    'adaptiveGradientClip: unit must be a function, got "tensor".',
    () => adaptiveGradientClip({ unit: 'tensor' as never }),
  ],
  ['constantSchedule: value must be a finite number of at least 0, got NaN.', () => constantSchedule(NaN)],
  ['linearSchedule: to must be a finite number of at least 0, got -1.', () => linearSchedule(1, -1, 4)],
  ['cosineSchedule: steps must be a finite number of at least 0, got NaN.', () => cosineSchedule(1, 0, NaN)],
  ['switchAt: steps must be', () => switchAt(-1, constantSchedule(1), constantSchedule(1))],
  ['optim: the learning rate of step 3 must be a finite number of at least 0, got NaN.', () => rateAt(() => NaN, 3)],
])('%s', (message, make) => {
  expect(make).toThrow(message);
});
