import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { AveragingLM, type Defect } from '../test/averaging-lm';
import { checkCausalLM } from './index';

describeBackends('checkCausalLM', () => {
  it('passes a correct model and leaks no tensors', async () => {
    const lm = new AveragingLM();
    await expectNoLeak(async () => {
      const report = await checkCausalLM(lm);
      expect(Object.values(report).every((gap) => gap < 1e-5)).toBe(true);
    });
  });

  it.each<[Defect, RegExp]>([
    ['sees the next token', /causality/],
    ['sees padding', /got leftPadding/],
    ['forgets the cache', /incremental/],
    ['head looks around', /positionWise/],
  ])('catches one that %s', async (defect, named) => {
    await expect(checkCausalLM(new AveragingLM(defect))).rejects.toThrow(named);
  });
});
