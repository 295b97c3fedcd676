import { describe, expect, it } from 'vitest';
import { formatPlan, planTraining } from './plan';

describe('plan', () => {
  // Flamingo, table 5: LM, vision encoder, xattn-dense, resampler, total.
  it.each([
    ['3b', '1.4B', '435M', '1.2B', '194M', '3.2B'],
    ['9b', '7.1B', '435M', '1.6B', '194M', '9.3B'],
    ['80b', '70B', '435M', '9.7B', '194M', '80B'],
  ])("counts the paper's %s", (preset, lm, vision, xattn, resampler, total) => {
    const { parameters: p } = planTraining(preset, 1);
    const near = (got: number, printed: string) => {
      const [, digits, unit] = /^([\d.]+)([BM])$/.exec(printed)!;
      const want = Number(digits) * (unit === 'B' ? 1e9 : 1e6);
      // Half a unit of the last printed digit, plus a little for norms and gates, which the table omits.
      const decimals = digits!.split('.')[1]?.length ?? 0;
      const half = (0.5 * (unit === 'B' ? 1e9 : 1e6)) / 10 ** decimals;
      expect(Math.abs(got - want)).toBeLessThanOrEqual(half + 0.005 * want);
    };
    near(p.lm, lm);
    near(p.vision, vision);
    near(p.xattn, xattn);
    near(p.resampler, resampler);
    near(p.total, total);
    expect(p.total).toBe(p.lm + p.vision + p.xattn + p.resampler);
  });

  it('shards only the optimizer over devices', () => {
    const one = planTraining('3b', 1).memoryPerDevice;
    const eight = planTraining('3b', 8).memoryPerDevice;
    expect(eight.optimizer).toBe(one.optimizer / 8);
    expect(eight.frozen).toBe(one.frozen);
    expect(eight.activations).toBeLessThan(one.activations);
    expect(one.total).toBe(one.frozen + one.trained + one.gradients + one.optimizer + one.activations);
  });

  it('counts more work for larger models, whatever the number of devices', () => {
    const [small, large] = [planTraining('3b', 1), planTraining('80b', 64)];
    expect(large.flopsPerStep.lm).toBeGreaterThan(20 * small.flopsPerStep.lm);
    expect(large.flopsPerStep.vision).toBe(small.flopsPerStep.vision);
    expect(planTraining('3b', 64).flopsPerStep).toEqual(small.flopsPerStep);
  });

  it('prints every part', () => {
    expect(formatPlan(planTraining('9b', 16))).toMatch(/9b on 16 devices[\s\S]*lm +7\.11B[\s\S]*resampler +193\.\dM/);
  });

  it('rejects unknown presets and numbers of devices', () => {
    expect(() => planTraining('4b', 1)).toThrow(/expected one of 3b, 9b, 80b, got 4b/);
    expect(() => planTraining('3b', 0)).toThrow(/--devices must be a whole number of at least 1, got 0/);
  });
});
