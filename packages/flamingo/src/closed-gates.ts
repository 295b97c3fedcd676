import { hiddenStates, type LMContext } from '@flamingo-ts/lm-core';
import type { MediaLMContext } from '@flamingo-ts/gated-xattn';
import * as tf from '@tensorflow/tfjs-core';
import type { Flamingo } from './flamingo';
import { promptMediaIndex, type FlamingoPrompt } from './inputs';

/**
 * Counts the logits by which a model with closed gates differs from its bare language model: 0 if both agree bit for
 * bit, as they must. Sets gates and offsets of the special tokens to 0 for the comparison, and restores them.
 *
 * @param prompt text with any images; its logits at all positions are compared
 */
export async function countClosedGateDifferences<C extends LMContext>(
  model: Flamingo<C>,
  prompt: FlamingoPrompt,
): Promise<number> {
  const { xattn, tokenOffsets, headOffsets } = model.params;
  const gates = xattn.blocks.flatMap(({ attnGate, mlpGate }) => [attnGate, mlpGate]);
  const closed: tf.Variable[] = [...gates, tokenOffsets, ...(headOffsets ? [headOffsets] : [])];
  const { visual } = prompt;
  const text = prompt.tokens.length;
  const mediaIndex = promptMediaIndex(prompt, 0, model.config.tokens.image);
  const saved = closed.map((variable) => tf.clone(variable));
  let logits: tf.Tensor[] = [];
  try {
    logits = tf.tidy(() => {
      closed.forEach((variable) => variable.assign(tf.zerosLike(variable)));
      const tokens = tf.tensor2d([...prompt.tokens], [1, text], 'int32');
      const media = model.encodeMedia({
        text,
        mediaIndex,
        ...(visual && { visual: { ...visual, shape: [1, ...visual.shape] } }),
      });
      const seeing = hiddenStates(model.lm, tokens, { media } as MediaLMContext<C>);
      const { lm } = model.parts;
      return [model.lm.logits(seeing), lm.logits(hiddenStates(lm, tokens, {} as C))];
    });
    const [ours, bare] = (await Promise.all(logits.map((x) => x.data()))) as [Float32Array, Float32Array];
    return ours.reduce((count, x, i) => count + (x === bare[i] ? 0 : 1), 0);
  } finally {
    closed.forEach((variable, i) => variable.assign(saved[i]!));
    tf.dispose([saved, logits]);
  }
}
