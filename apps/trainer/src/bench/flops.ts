import type { ClipViTConfig } from '@flamingo-ts/clip-vit';
import { gatedPositions, interleaveShapes, type InterleaveConfig } from '@flamingo-ts/gated-xattn';
import { resamplerShapes, type ResamplerConfig } from '@flamingo-ts/perceiver-resampler';
import type { ModelSpec } from './spec';

/** Config of the resampler and gated cross-attention of a workload, as in OpenFlamingo. */
export function jointConfigOf({ lm, xattn, resampler, vision }: ModelSpec): {
  resampler: ResamplerConfig;
  xattn: InterleaveConfig;
} {
  return {
    resampler: {
      visualSize: vision.dim,
      numLayers: resampler.depth,
      numHeads: resampler.heads,
      headDim: resampler.head_dim,
      numLatents: resampler.latents,
      intermediateSize: resampler.ff_mult * vision.dim,
      activation: 'gelu',
      finalNorm: true,
    },
    xattn: {
      hiddenSize: lm.hidden,
      visualSize: vision.dim,
      numHeads: xattn.heads,
      headDim: xattn.head_dim,
      intermediateSize: xattn.ff_mult * lm.hidden,
      activation: 'gelu',
      normMedia: false,
      every: xattn.every,
      placement: 'open-flamingo',
    },
  };
}

/** Floating-point operations of a forward pass, by part. A multiply-add counts as two. */
interface Work {
  readonly lm: number;
  /** The language model above its first gated block, head included. Gradients flow through this part. */
  readonly lmAbove: number;
  /** Resampler and gated cross-attention. */
  readonly joint: number;
}

/**
 * Counts the operations of a forward pass.
 *
 * @param text    number of text positions to compute per row
 * @param context mean number of keys that a text position attends to
 * @param media   whether the pass encodes the images; false once their keys and values are cached
 */
function workOf(spec: ModelSpec, text: number, context: number, media: boolean): Work {
  const { lm, xattn, resampler, vision, batch, images } = spec;
  const config = jointConfigOf(spec);
  const rows = batch * text;
  const layer = rows * (2 * 12 * lm.hidden ** 2 + 4 * context * lm.hidden);
  const head = 2 * rows * lm.hidden * lm.vocab;
  const first = gatedPositions(lm.layers, config.xattn)[0] ?? lm.layers;

  const latents = batch * images * resampler.latents;
  const features = batch * images * vision.frames * vision.positions;
  const matrices = (shapes: Record<string, readonly number[]>, rowsOf: (name: string) => number) =>
    Object.entries(shapes)
      .filter(([name, shape]) => shape.length === 2 && name.endsWith('.weight'))
      .reduce((sum, [name, [out, inputs]]) => sum + 2 * out! * inputs! * rowsOf(name), 0);
  const isKeyOrValue = (name: string) => /(^|\.)(key|value)\.weight$/.test(name);

  let joint = matrices(interleaveShapes(config.xattn, lm.layers), (name) =>
    isKeyOrValue(name) ? (media ? latents : 0) : rows,
  );
  const gated = gatedPositions(lm.layers, config.xattn).length;
  joint += gated * rows * 4 * resampler.latents * xattn.heads * xattn.head_dim;
  if (media) {
    joint += matrices(resamplerShapes(config.resampler), (name) => (isKeyOrValue(name) ? features + latents : latents));
    const keys = vision.frames * vision.positions + resampler.latents;
    joint += resampler.depth * latents * 4 * keys * resampler.heads * resampler.head_dim;
  }
  return { lm: lm.layers * layer + head, lmAbove: (lm.layers - first) * layer + head, joint };
}

/** Operations of one training step: three forward passes for trained parts, two for frozen parts that gradients flow through. */
export function trainFlops(spec: ModelSpec): number {
  const { lm, lmAbove, joint } = workOf(spec, spec.tokens, spec.tokens / 2, true);
  return lm + lmAbove + 3 * joint;
}

/** Operations to process the prompt, and to generate each further token. Only one position per row needs the head. */
export function decodeFlops(spec: ModelSpec): { readonly prefill: number; readonly token: number } {
  const { lm, tokens, batch } = spec;
  const prompt = workOf(spec, tokens, tokens / 2, true);
  const token = workOf(spec, 1, tokens, false);
  const skippedHead = 2 * batch * (tokens - 1) * lm.hidden * lm.vocab;
  return { prefill: prompt.lm + prompt.joint - skippedHead, token: token.lm + token.joint };
}

/** Operations of CLIP's vision transformer for one image. */
export function clipFlops(config: ClipViTConfig): number {
  const { imageSize, patchSize, visualSize, numLayers } = config;
  const patches = Math.floor(imageSize / patchSize) ** 2;
  const tokens = patches + 1;
  const layer = 2 * tokens * (4 * visualSize ** 2 + 2 * visualSize * (config.intermediateSize ?? 4 * visualSize));
  return 2 * patches * 3 * patchSize ** 2 * visualSize + numLayers * (layer + 4 * tokens ** 2 * visualSize);
}
