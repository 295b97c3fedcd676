import { describe, expect, it } from 'vitest';
import { flamingoFromOpenFlamingo, flamingoPreset, flamingoPresets, flamingoShapes } from './index';

const count = (shapes: Record<string, readonly number[]>): number =>
  Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);

describe('presets', () => {
  // Table 5, in units of its last printed digit.
  it.each([
    ['3b', { lm: 1.4, vision: 0.435, xattn: 1.2, resampler: 0.194 }],
    ['9b', { lm: 7.1, vision: 0.435, xattn: 1.6, resampler: 0.194 }],
    ['80b', { lm: 70, vision: 0.435, xattn: 10, resampler: 0.194 }],
  ] as const)('%s has the counts of the paper', (name, billions) => {
    const shapes = flamingoShapes(flamingoPresets[name]);
    for (const [part, printed] of Object.entries(billions)) {
      const own = count(shapes[part as keyof typeof shapes]) / 1e9;
      const digits = (String(printed).split('.')[1] ?? '').length;
      expect(own.toFixed(digits), part).toBe(printed.toFixed(digits));
    }
  });

  it('names the known ones', () => {
    expect(() => flamingoPreset('7b')).toThrow(/expected one of 3b, 9b, 80b, got 7b/);
    expect(flamingoPreset('9b').lm.numLayers).toBe(32);
  });
});

describe('flamingoFromOpenFlamingo', () => {
  it('numbers gated blocks by their order', () => {
    const value = (...shape: number[]) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) });
    const state = flamingoFromOpenFlamingo({
      'module.perceiver.latents': value(3, 6),
      'module.lang_encoder.transformer.blocks.10.gated_cross_attn_layer.ff.0.weight': value(8),
      'module.lang_encoder.transformer.blocks.2.gated_cross_attn_layer.ff.0.weight': value(8),
      'module.lang_encoder.transformer.blocks.2.gated_cross_attn_layer.attn.to_kv.weight': value(8, 6),
      'module.lang_encoder.transformer.wte.weight': value(9, 8),
    });
    expect(Object.keys(state).sort()).toEqual([
      'resampler.latents',
      'tokenOffsets',
      'xattn.blocks.0.attn.key.weight',
      'xattn.blocks.0.attn.value.weight',
      'xattn.blocks.0.mlp.norm.weight',
      'xattn.blocks.1.mlp.norm.weight',
    ]);
    expect(() => flamingoFromOpenFlamingo({})).toThrow(/no gated block was found/);
  });
});
