import type { InterleaveConfig } from '@flamingo-ts/gated-xattn';
import type { ResamplerConfig } from '@flamingo-ts/perceiver-resampler';

/** A published OpenFlamingo model: its frozen models, and the sizes of its trained layers. */
export interface OpenFlamingoArchitecture {
  /** Its language model. */
  readonly lm: {
    /** Its repository on Hugging Face. (LLaMA's weights were distributed elsewhere.) */
    readonly name: string;
    /** `model_type` of its config.json. */
    readonly modelType: string;
    /** Path of its list of blocks, as in the checkpoint's names. */
    readonly layers: string;
    readonly numLayers: number;
    readonly hiddenSize: number;
  };
  /** Its vision encoder: a variant of CLIP's transformer with OpenAI's weights. */
  readonly vision: { readonly variant: 'L/14'; readonly imageSize: number; readonly visualSize: number };
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
}

/** Width of all attention heads that OpenFlamingo adds. The shapes in a checkpoint do not show it. */
export const openFlamingoHeadDim = 64;

/** All published models use CLIP ViT-L/14 and 6 resampler layers. */
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
 * The published models by name of their repository (Awadalla et al. 2023, table 1; the last one, on LLaMA, was published
 * first and later withdrawn). Positions, activations and attention of the gated blocks are OpenFlamingo's, not the paper's.
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
        'For any other checkpoint, call loadOpenFlamingo, which derives all sizes from it.',
    );
  }
  return openFlamingoPresets[name as OpenFlamingoPreset];
}
