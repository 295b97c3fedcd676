import type { InterleaveConfig } from '@flamingo-ts/gated-xattn';
import type { ResamplerConfig } from '@flamingo-ts/perceiver-resampler';

/** A published OpenFlamingo: what it was trained on top of, and the sizes of what was trained. */
export interface OpenFlamingoArchitecture {
  /** Its language model. */
  readonly lm: {
    /** Its repository on Hugging Face. (LLaMA's weights were given out otherwise.) */
    readonly name: string;
    /** `model_type` of its config.json. */
    readonly modelType: string;
    /** Path of its list of blocks, which is in the checkpoint's names. */
    readonly layers: string;
    readonly numLayers: number;
    readonly hiddenSize: number;
  };
  /** Its vision encoder: a variant of CLIP's transformer with OpenAI's weights. */
  readonly vision: { readonly variant: 'L/14'; readonly imageSize: number; readonly visualSize: number };
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
}

/** Width of all attention heads that OpenFlamingo adds. No shape in a checkpoint tells it. */
export const openFlamingoHeadDim = 64;

/** CLIP ViT-L/14 in front of 6 resampler layers, both alike in all published models. */
const vision = { variant: 'L/14', imageSize: 224, visualSize: 1024 } as const;
const attention = { numHeads: 8, headDim: openFlamingoHeadDim, activation: 'gelu' } as const;
const resampler: ResamplerConfig = {
  ...attention,
  visualSize: vision.visualSize,
  numLayers: 6,
  numLatents: 64,
  intermediateSize: 4 * vision.visualSize,
  finalNorm: true,
  latentStd: 1,
};

type Language = Omit<OpenFlamingoArchitecture['lm'], 'name'>;

const mpt1b: Language = { modelType: 'mosaic_gpt', layers: 'transformer.blocks', numLayers: 24, hiddenSize: 2048 };
const mpt7b: Language = { modelType: 'mpt', layers: 'transformer.blocks', numLayers: 32, hiddenSize: 4096 };
const redPajama3b: Language = { modelType: 'gpt_neox', layers: 'gpt_neox.layers', numLayers: 32, hiddenSize: 2560 };
const llama7b: Language = { modelType: 'llama', layers: 'model.layers', numLayers: 32, hiddenSize: 4096 };

function published(lm: Language, name: string, every: number): OpenFlamingoArchitecture {
  const xattn: InterleaveConfig = {
    ...attention,
    hiddenSize: lm.hiddenSize,
    visualSize: vision.visualSize,
    intermediateSize: 4 * lm.hiddenSize,
    normMedia: false,
    emptyRows: 'uniform',
    every,
    placement: 'open-flamingo',
  };
  return { lm: { name, ...lm }, vision, resampler, xattn };
}

/**
 * The published models by the names of their repositories (Awadalla et al. 2023, table 1; the last one here, on LLaMA, came first and was
 * withdrawn). Where a gated block is, how it activates and what it sees is theirs, not the paper's.
 */
export const openFlamingoPresets = {
  'OpenFlamingo-3B-vitl-mpt1b': published(mpt1b, 'anas-awadalla/mpt-1b-redpajama-200b', 1),
  'OpenFlamingo-3B-vitl-mpt1b-langinstruct': published(mpt1b, 'anas-awadalla/mpt-1b-redpajama-200b-dolly', 1),
  'OpenFlamingo-4B-vitl-rpj3b': published(redPajama3b, 'togethercomputer/RedPajama-INCITE-Base-3B-v1', 2),
  'OpenFlamingo-4B-vitl-rpj3b-langinstruct': published(
    redPajama3b,
    'togethercomputer/RedPajama-INCITE-Instruct-3B-v1',
    2,
  ),
  'OpenFlamingo-9B-vitl-mpt7b': published(mpt7b, 'anas-awadalla/mpt-7b', 4),
  'OpenFlamingo-9B-deprecated': published(llama7b, 'LLaMA-7B', 4),
} satisfies Record<string, OpenFlamingoArchitecture>;

export type OpenFlamingoPreset = keyof typeof openFlamingoPresets;

/** The architecture of a published OpenFlamingo. */
export function openFlamingoPreset(name: string): OpenFlamingoArchitecture {
  if (!Object.hasOwn(openFlamingoPresets, name)) {
    throw new Error(
      `openFlamingoPreset: expected one of ${Object.keys(openFlamingoPresets).join(', ')}, got ${name}. ` +
        'For a checkpoint of another one call loadOpenFlamingo, which reads the sizes off it.',
    );
  }
  return openFlamingoPresets[name as OpenFlamingoPreset];
}
