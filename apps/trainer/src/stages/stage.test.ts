import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constantVariable, Random, useBackend } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { OptimizerConfig } from '../config/config';
import { readMetrics, runStage, type Objective } from './stage';
import { Interrupted, StopSignal } from '../cli/stop-signal';

const root = mkdtempSync(join(tmpdir(), 'flamingo-stage-'));
beforeAll(() => useBackend('cpu'));
afterAll(() => rmSync(root, { recursive: true }));

const config: OptimizerConfig = {
  steps: 12,
  learningRate: 0.1,
  warmupSteps: 2,
  decayFrom: 0.5,
  finalShare: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  weightDecay: 0.01,
  clipNorm: 1,
  checkpointEvery: 5,
};

/** A line through noisy points; the data come from a stream that must be continued, not begun again. */
function lineObjective(onStep?: (step: number) => void, failAt?: number): Objective & { dispose(): void } {
  const w = constantVariable([2], 0);
  let taken = 0;
  return {
    params: { w },
    decays: () => true,
    resume(cursor) {
      taken = (cursor as { taken: number }).taken;
    },
    async prepare(step) {
      if (step === failAt) throw new Error(`no data for step ${step}`);
      const random = new Random(7).fork(`point ${taken++}`);
      const cursor = { taken };
      const x = Array.from({ length: 8 }, () => random.normal());
      const y = x.map((v) => 3 * v - 1 + 0.1 * random.normal());
      const loss = () =>
        tf.tidy(() => {
          const inputs = tf.stack([tf.tensor1d(x), tf.onesLike(tf.tensor1d(x))], 1);
          return tf.mean(tf.square(tf.sub(tf.dot(inputs, w), tf.tensor1d(y)))) as tf.Scalar;
        });
      return { losses: () => [{ name: 'line', weight: 0.5, loss }], cursor };
    },
    afterUpdate: onStep,
    dispose: () => w.dispose(),
  };
}

async function run(
  folder: string,
  options: { stopAt?: number; failAt?: number; steps?: number; fingerprint?: unknown } = {},
) {
  const stop = new StopSignal();
  const objective = lineObjective((step) => {
    if (step === options.stopAt) process.emit('SIGINT');
  }, options.failAt);
  try {
    return await runStage({
      name: 'line',
      folder: join(root, folder),
      config: { ...config, steps: options.steps ?? config.steps },
      fingerprint: options.fingerprint ?? 'same',
      objective,
      stop,
    });
  } finally {
    stop.dispose();
    objective.dispose();
  }
}

const losses = (folder: string) => readMetrics(join(root, folder, 'metrics.jsonl')).map((m) => m.loss);

describe('a stage', () => {
  it('learns, and writes a line for every step', async () => {
    const { metrics } = await run('whole');
    expect(metrics).toHaveLength(12);
    expect(metrics[11]!.loss).toBeLessThan(0.7 * metrics[0]!.loss);
    expect(losses('whole')).toEqual(metrics.map((m) => m.loss));
    expect(metrics.map((m) => m.learningRate)[5]).toBe(0.1);
    expect(metrics[11]!.learningRate).toBeLessThan(0.05);
  });

  it('stopped by Ctrl-C and started again gives the losses of a run never stopped', async () => {
    await expect(run('stopped', { stopAt: 6 })).rejects.toThrow(Interrupted);
    expect(losses('stopped')).toHaveLength(7);
    await run('stopped');
    expect(losses('stopped')).toEqual(losses('whole'));
  });

  it('killed between checkpoints repeats the lost steps and gives the same losses', async () => {
    await expect(run('killed', { stopAt: 7 })).rejects.toThrow(Interrupted);
    // As a kill leaves it: the newest checkpoint half written, metrics ahead of the one before.
    const checkpoints = join(root, 'killed', 'checkpoints');
    truncateSync(join(checkpoints, 'step-000008', 'model.safetensors'), 10);
    await run('killed');
    expect(losses('killed')).toEqual(losses('whole'));
    expect(readdirSync(checkpoints)).toContain('step-000012');
  });

  it('does nothing more when it is finished', async () => {
    const before = losses('whole');
    await run('whole');
    expect(losses('whole')).toEqual(before);
  });

  it('does not continue what was made with another configuration', async () => {
    await expect(run('whole', { fingerprint: 'other' })).rejects.toThrow(/another configuration.*--fresh/);
  });

  it('ends at a loss that is not finite, and says which', async () => {
    const w = constantVariable([], 0);
    const stop = new StopSignal();
    const objective: Objective = {
      params: { w },
      decays: () => false,
      prepare: async () => ({ losses: () => [{ name: 'bad', weight: 1, loss: () => tf.div(w, 0) as tf.Scalar }] }),
    };
    const options = { name: 'bad', folder: join(root, 'bad'), config, fingerprint: 0, objective, stop };
    await expect(runStage(options)).rejects.toThrow(/bad: the loss at step 0 is NaN.*expected a finite number/);
    stop.dispose();
    w.dispose();
    expect(existsSync(join(root, 'bad', 'checkpoints', 'step-000001'))).toBe(false);
  });

  it('ends its bar on a terminal when it fails: the timer of one would keep the process alive', async () => {
    const { isTTY } = process.stderr;
    process.stderr.isTTY = true;
    vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    const before = timers();
    for (let i = 0; i < 5; i++) {
      await expect(run(`terminal ${i}`, { failAt: 3 })).rejects.toThrow('no data for step 3');
    }
    // Timers of others may come and go meanwhile; five bars would stay.
    expect(timers()).toBeLessThan(before + 3);
    process.stderr.isTTY = isTTY;
    vi.restoreAllMocks();
  });

  it('reports data that fail while the step before computes', async () => {
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    await expect(run('failing', { failAt: 3 })).rejects.toThrow('no data for step 3');
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
    expect(losses('failing')).toHaveLength(3);
  });

  describe('says how long it waited for data', () => {
    const COMPUTING = 1000;
    afterEach(() => void vi.restoreAllMocks());

    /**
     * Runs with a clock of its own, which only computing and the source of the data move on: what the machine does
     * meanwhile cannot change a figure.
     *
     * @param preparing milliseconds for the data of a step, spent while the loop awaits them; 0: made by workers meanwhile
     */
    async function timed(folder: string, preparing: number, stopAt?: number) {
      let clock = 0;
      vi.spyOn(performance, 'now').mockImplementation(() => clock);
      const lines: string[] = [];
      vi.spyOn(process.stderr, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
      const line = lineObjective((step) => {
        clock += COMPUTING;
        if (step === stopAt) process.emit('SIGINT');
      });
      const objective: Objective = {
        ...line,
        async prepare(step) {
          const prepared = await line.prepare(step);
          await new Promise((resolve) => setTimeout(resolve, 1));
          clock += preparing;
          return prepared;
        },
      };
      const stop = new StopSignal();
      // No checkpoints on the way: what is prepared while one is written is not waited for.
      const settings = { ...config, checkpointEvery: config.steps };
      const options = { name: 'line', folder: join(root, folder), config: settings, fingerprint: 0, objective, stop };
      try {
        return { ...(await runStage(options)), said: lines.at(-1) };
      } finally {
        stop.dispose();
        line.dispose();
      }
    }

    it('all of it where the source is slow: in the metrics, the result and the last line', async () => {
      const { metrics, seconds, waitedShare, said } = await timed('slow source', 3000);
      expect(metrics.at(-1)).toMatchObject({ seconds: 12 * 4, waited: 12 * 3, waitedShare: 0.75 });
      expect(readMetrics(join(root, 'slow source', 'metrics.jsonl'))).toEqual(metrics);
      expect({ seconds, waitedShare }).toEqual({ seconds: 48, waitedShare: 0.75 });
      expect(said).toMatch(/^line: 12 steps, loss \d+\.\d+, 75\.0% of the time waiting for data/);
    });

    it('nothing where all is ready before its turn', async () => {
      const { metrics, said } = await timed('quick source', 0);
      expect(metrics.at(-1)).toMatchObject({ seconds: 12, waited: 0, waitedShare: 0 });
      expect(said).toContain(', 0.0% of the time waiting for data');
    });

    it('over all runs, where it was stopped in between', async () => {
      await expect(timed('slow and stopped', 3000, 5)).rejects.toThrow(Interrupted);
      const first = readMetrics(join(root, 'slow and stopped', 'metrics.jsonl')).at(-1)!;
      const { metrics } = await timed('slow and stopped', 0);
      expect(metrics.at(-1)).toMatchObject({ seconds: first.seconds + 6, waited: first.waited });
      expect(metrics.at(-1)!.waitedShare).toBeCloseTo(first.waited / (first.seconds + 6), 12);
    });

    it('without the work of a frozen encoder, which is no waiting', async () => {
      let clock = 0;
      vi.spyOn(performance, 'now').mockImplementation(() => clock);
      const line = lineObjective();
      const objective: Objective = {
        ...line,
        async prepare(step) {
          const { losses, cursor } = await line.prepare(step);
          const encoding = () => {
            clock += COMPUTING;
            return losses();
          };
          return { losses: encoding, cursor };
        },
      };
      const stop = new StopSignal();
      const options = { name: 'line', folder: join(root, 'encoder'), config, fingerprint: 0, objective, stop };
      const { metrics } = await runStage(options);
      stop.dispose();
      line.dispose();
      expect(metrics.at(-1)).toMatchObject({ seconds: 12, waited: 0 });
    });
  });

  it('leaves no tensors behind', async () => {
    const before = tf.memory().numTensors;
    await run('leaks');
    expect(tf.memory().numTensors).toBe(before);
  });
});
