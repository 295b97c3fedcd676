import { Random, variables, type BackendChoice } from '@flamingo-ts/kernels';
import { valueAndGrads } from '@flamingo-ts/optim';
import { nfnetFlops } from '@flamingo-ts/nfnet';
import * as tf from '@tensorflow/tfjs-core';
import { visionConfig, VisionTower } from './vision';
import type { Config } from './config';

/** One thing timed. */
export interface BenchResult {
  readonly what: string;
  readonly backend: string;
  /** Median of the runs. */
  readonly milliseconds: number;
  readonly runs: number;
  /** Work done per second, where it can be counted from shapes. */
  readonly gflops?: number;
}

/** Side of the matrices whose product is timed. */
const SIDE = 1024;

/** Times a matrix product and the vision encoder of a configuration, forward and with gradients. */
export async function bench(config: Config, backend: BackendChoice, seconds: number): Promise<BenchResult[]> {
  const results: BenchResult[] = [];
  const time = (what: string, flops: number, run: () => void) => {
    run();
    const times: number[] = [];
    const end = performance.now() + 1000 * seconds;
    while (times.length < 3 || performance.now() < end) {
      const from = performance.now();
      run();
      times.push(performance.now() - from);
    }
    const milliseconds = times.sort((a, b) => a - b)[times.length >> 1]!;
    results.push({ what, backend: backend.name, milliseconds, runs: times.length, gflops: flops / milliseconds / 1e6 });
  };

  const [a, b] = [tf.randomUniform([SIDE, SIDE]), tf.randomUniform([SIDE, SIDE])];
  time(`matrix product ${SIDE}`, 2 * SIDE ** 3, () => {
    const product = tf.matMul(a, b);
    product.dataSync();
    product.dispose();
  });
  tf.dispose([a, b]);

  const { model, jointSize, batch } = config.vision;
  const tower = VisionTower.create(model, jointSize, new Random(0));
  const images = tf.randomUniform([batch, model.imageSize, model.imageSize, 3]) as tf.Tensor4D;
  const flops = batch * nfnetFlops(visionConfig(model));
  time(`vision forward, ${batch} pictures`, flops, () => {
    const embedded = tower.embed(images);
    embedded.dataSync();
    embedded.dispose();
  });
  const weights = variables({ encoder: tower.encoder.params, head: tower.head });
  time(`vision forward and backward, ${batch} pictures`, 3 * flops, () => {
    const { value, grads } = valueAndGrads(() => tf.mean(tf.square(tower.embed(images))) as tf.Scalar, weights);
    value.dataSync();
    tf.dispose([value, grads]);
  });
  images.dispose();
  tower.dispose();
  return results;
}

/** The results as a table. */
export function formatBench(results: readonly BenchResult[]): string {
  return results
    .map((r) => {
      const rate = r.gflops === undefined ? '' : `${r.gflops.toFixed(1)} GFLOP/s`;
      return `${r.what.padEnd(44)} ${r.milliseconds.toFixed(2).padStart(10)} ms  ${rate}`.trimEnd();
    })
    .join('\n');
}
