import { checkGradient, describeBackends, expectClose, expectNoLeak, loadReference } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { contrastiveLogits, contrastiveLoss, l2Normalize, LOG_SCALE_START } from './contrastive';

// The loss of open_clip in one process, in float64.
const golden = loadReference(new URL('../test/reference/contrastive_loss', import.meta.url));
const inputs = () =>
  [golden.tensor('image'), golden.tensor('text'), golden.tensor('log_scale')] as [tf.Tensor2D, tf.Tensor2D, tf.Scalar];

const random = (shape: [number, number], seed: number): tf.Tensor2D => tf.randomNormal(shape, 0, 1, 'float32', seed);

describeBackends('contrastiveLoss', () => {
  it("equals CLIP's, and Flamingo's as the sum of both directions", () => {
    tf.tidy(() => {
      const [image, text, logScale] = inputs();
      expectClose(contrastiveLoss(image, text, logScale), golden.tensors['out.loss']!, { rtol: 1e-5 });
      const sum = contrastiveLoss(image, text, logScale, { directions: 'sum' });
      expectClose(sum, golden.tensors['out.loss_sum_of_both']!, { rtol: 1e-5 });
      expectClose(contrastiveLogits(image, text, logScale), golden.tensors['out.logits_per_image']!, { rtol: 1e-5 });
      const grads = tf.grads((i, t, s) => contrastiveLoss(i as tf.Tensor2D, t as tf.Tensor2D, s as tf.Scalar))(
        inputs(),
      );
      ['image', 'text', 'log_scale'].forEach((name, i) =>
        expectClose(grads[i]!, golden.tensors[`grad.${name}`]!, { rtol: 1e-4 }),
      );
    });
  });

  it('equals the cross-entropy with the smoothed target under label smoothing', () => {
    tf.tidy(() => {
      const [images, texts] = [random([4, 5], 1), random([4, 5], 2)];
      const logScale = tf.scalar(LOG_SCALE_START);
      const logits = contrastiveLogits(images, texts, logScale).arraySync();
      const target = (i: number, j: number) => (i === j ? 0.9 : 0) + 0.1 / 4;
      let expected = 0;
      for (const rows of [logits, logits.map((_, j) => logits.map((row) => row[j]!))]) {
        rows.forEach((row, i) => {
          const total = Math.log(row.reduce((sum, v) => sum + Math.exp(v), 0));
          row.forEach((v, j) => (expected += (target(i, j) * (total - v)) / 4 / 2));
        });
      }
      expectClose(contrastiveLoss(images, texts, logScale, { labelSmoothing: 0.1 }), expected, { rtol: 1e-5 });
    });
  });

  it('has the gradients of finite differences', () => {
    const f = (i: tf.Tensor, t: tf.Tensor, s: tf.Tensor) =>
      contrastiveLoss(i as tf.Tensor2D, t as tf.Tensor2D, s as tf.Scalar, { labelSmoothing: 0.1 });
    checkGradient(f, [random([3, 4], 1), random([3, 4], 2), tf.scalar(1)], { rtol: 1e-2, elements: 6 });
  });

  it('normalizes rows of any length, and keeps zeros', () => {
    tf.tidy(() => {
      expectClose(
        l2Normalize(
          tf.tensor2d([
            [3, 4],
            [0, 0],
            [3e-6, 4e-6],
          ]),
        ),
        [0.6, 0.8, 0, 0, 0.6, 0.8],
        { atol: 1e-6 },
      );
      const slope = tf.grad((x) => tf.sum(l2Normalize(x)))(tf.zeros([1, 2]));
      expect(Array.from(slope.dataSync()).every(Number.isFinite)).toBe(true);
    });
    checkGradient(l2Normalize, [random([3, 4], 5)], { rtol: 1e-2, elements: 6 });
  });

  it('leaks nothing, and refuses other widths and unknown options', async () => {
    const [image, text, logScale] = inputs();
    await expectNoLeak(() => tf.grads((i) => contrastiveLoss(i as tf.Tensor2D, text, logScale))([image]));
    expect(() => contrastiveLoss(tf.zeros([2, 4]), tf.zeros([2, 5]), logScale)).toThrow(
      /texts must be \[2, 4\], got \[2, 5\]\. Pass one text per image, both projected to one width/,
    );
    expect(() => contrastiveLogits(tf.zeros([2, 4]), tf.zeros([3, 5]), logScale)).toThrow(
      /texts must be \[texts, 4\], got \[3, 5\]\. Project images and texts to one width/,
    );
    expect(() => contrastiveLoss(tf.zeros([2, 4]), tf.zeros([3, 4]), logScale)).toThrow(/got \[3, 4\]/);
    expect(() => contrastiveLoss(image, text, logScale, { directions: 'both' as never })).toThrow(/one of mean, sum/);
    expect(() => contrastiveLoss(image, text, logScale, { labelSmoothing: 1 })).toThrow(/labelSmoothing.*got 1/);
  });
});
