import { interleaveShapes, type InterleaveConfig } from '@flamingo-ts/gated-xattn';
import { chinchillaPreset, chinchillaShapes, type ChinchillaConfig } from '@flamingo-ts/lm-chinchilla';
import { nfnetConfig, nfnetShapes, type NFNetConfig } from '@flamingo-ts/nfnet';
import { resamplerShapes, type ResamplerConfig } from '@flamingo-ts/perceiver-resampler';

/** Sizes of all four parts of a Flamingo. */
export interface FlamingoArchitecture {
  readonly vision: NFNetConfig;
  readonly lm: ChinchillaConfig;
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
}

/** Shapes of all parameters, by part and name. */
export type FlamingoShapes = Record<'lm' | 'vision' | 'xattn' | 'resampler', Record<string, readonly number[]>>;

/**
 * The paper's models (tables 4 and 5). Its tables and parameter counts do not all agree; these sizes reproduce the counts of
 * table 5: 32 language blocks and 8 gated blocks in the 9B, resampler heads of 128, features projected from 3072 to 1536,
 * and keys and values computed from latents as wide as the language model.
 */
function paper(language: string, every: number): FlamingoArchitecture {
  const lm = chinchillaPreset(language);
  const resampler: ResamplerConfig = {
    visualSize: 1536,
    inputSize: 3072,
    numLayers: 6,
    numHeads: 16,
    headDim: 128,
    numLatents: 64,
    intermediateSize: 4 * 1536,
    activation: 'squared-relu',
    numFrames: 8,
    finalNorm: false,
  };
  const xattn: InterleaveConfig = {
    hiddenSize: lm.hiddenSize,
    visualSize: lm.hiddenSize,
    latentSize: resampler.visualSize,
    numHeads: lm.numHeads,
    headDim: lm.headDim,
    intermediateSize: 4 * lm.hiddenSize,
    activation: 'squared-relu',
    normMedia: true,
    every,
    placement: 'paper',
  };
  return { vision: nfnetConfig({ variant: 'F6', imageSize: 320 }), lm, resampler, xattn };
}

/** The paper's models by name. */
export const flamingoPresets = {
  '3b': paper('chinchilla-1.4b', 1),
  '9b': paper('chinchilla-7b', 4),
  '80b': paper('chinchilla-70b', 7),
} satisfies Record<string, FlamingoArchitecture>;

export type FlamingoPreset = keyof typeof flamingoPresets;

/** The architecture of a named size. */
export function flamingoPreset(name: string): FlamingoArchitecture {
  if (!Object.hasOwn(flamingoPresets, name)) {
    throw new Error(
      `flamingoPreset: expected one of ${Object.keys(flamingoPresets).join(', ')}, got ${name}. ` +
        'For other sizes, write a FlamingoArchitecture.',
    );
  }
  return flamingoPresets[name as FlamingoPreset];
}

/** Shapes of all parameters of a model of this architecture, by part. Allocates nothing. */
export function flamingoShapes({ lm, vision, xattn, resampler }: FlamingoArchitecture): FlamingoShapes {
  return {
    lm: chinchillaShapes(lm),
    vision: nfnetShapes(vision),
    xattn: interleaveShapes(xattn, lm.numLayers),
    resampler: resamplerShapes(resampler),
  };
}
