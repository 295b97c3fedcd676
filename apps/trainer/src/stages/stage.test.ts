import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readState } from '@flamingo-ts/checkpoint';
import { constantVariable, Random, useBackend } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { OptimizerConfig } from '../config/config';
import { readMetrics } from './metrics';
import { runStage, type Objective } from './stage';
import { Interrupted, StopSignal } from '../cli/stop-signal';

const root = mkdtempSync(join(tmpdir(), 'flamingo-stage-'));
beforeAll(() => useBackend('cpu'));
afterAll(() => rmSync(root, { recursive: true }));

const config: OptimizerConfig = {
  steps: 12,
  learningRate: 0.1,
  schedule: 'linear',
  warmupSteps: 2,
  decayFrom: 0.5,
  finalShare: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  weightDecay: 0.01,
  clipNorm: 1,
  checkpointEvery: 5,
};

/** Fits a line to noisy points. The data comes from a stream that must be resumed. */
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
  options: { stopAt?: number; failAt?: number; steps?: number; fingerprint?: object; train?: object } = {},
) {
  const stop = new StopSignal();
  const objective = lineObjective((step) => {
    if (step === options.stopAt) process.emit('SIGINT');
  }, options.failAt);
  try {
    return await runStage({
      name: 'line',
      folder: join(root, folder),
      config: { ...config, steps: options.steps ?? config.steps, ...options.train },
      fingerprint: { ...options.fingerprint },
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
  it('learns, and writes a line of metrics for every step', async () => {
    const { metrics } = await run('whole');
    expect(metrics).toHaveLength(12);
    expect(metrics[11]!.loss).toBeLessThan(0.7 * metrics[0]!.loss);
    expect(losses('whole')).toEqual(metrics.map((m) => m.loss));
    expect(metrics.map((m) => m.learningRate)[5]).toBe(0.1);
    expect(metrics[11]!.learningRate).toBeLessThan(0.05);
  });

  it('stopped by Ctrl-C and resumed, gives the losses of a run that was never stopped', async () => {
    await expect(run('stopped', { stopAt: 6 })).rejects.toThrow(Interrupted);
    expect(losses('stopped')).toHaveLength(7);
    await run('stopped');
    expect(losses('stopped')).toEqual(losses('whole'));
  });

  it('killed between checkpoints repeats the lost steps and gives the same losses', async () => {
    await expect(run('killed', { stopAt: 7 })).rejects.toThrow(Interrupted);
    // As after a kill: the newest checkpoint is incomplete, and the metrics are ahead of the previous one.
    const checkpoints = join(root, 'killed', 'checkpoints');
    truncateSync(join(checkpoints, 'step-000008', 'model.safetensors'), 10);
    await run('killed');
    expect(losses('killed')).toEqual(losses('whole'));
    expect(readdirSync(checkpoints)).toContain('step-000012');
  });

  it('does nothing when it is finished', async () => {
    const before = losses('whole');
    await run('whole');
    expect(losses('whole')).toEqual(before);
  });

  it('does not resume with another configuration, and names the keys with both values', async () => {
    const fingerprint = (batch: number) => ({ lm: { batch, model: { widths: [1, batch] } }, seed: 0 });
    await run('fingerprint', { steps: 2, fingerprint: fingerprint(2) });
    await expect(run('fingerprint', { steps: 2, fingerprint: fingerprint(4) })).rejects.toThrow(
      /step-000002 was made with another configuration:\n {2}lm\.batch: 4 now, 2 before\n {2}lm\.model\.widths: \[1,4\] now, \[1,2\] before\n.*--fresh/,
    );
  });

  it('adds steps to a finished run, whose learning rate then follows the new number of steps', async () => {
    await run('added', { steps: 6 });
    const { metrics } = await run('added', { steps: 12 });
    expect(metrics.map((m) => m.step)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    const whole = readMetrics(join(root, 'whole', 'metrics.jsonl')).map((m) => m.learningRate);
    expect(metrics.slice(6).map((m) => m.learningRate)).toEqual(whole.slice(6));
    await expect(run('added', { steps: 8 })).rejects.toThrow(
      /step-000012 is at step 12, expected at most train\.steps: 8/,
    );
  });

  it('resumes with another learning rate and reports it', async () => {
    await run('rates', { steps: 3 });
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const { metrics } = await run('rates', { steps: 6, train: { learningRate: 0.01 } });
    const text = write.mock.calls.join('');
    vi.restoreAllMocks();
    expect(text).toContain(
      'line: resumes at step 3 with train.steps: 6 now, 3 before; train.learningRate: 0.01 now, 0.1',
    );
    expect(metrics[3]!.learningRate).toBeLessThanOrEqual(0.01);
  });

  describe('with validation', () => {
    /** Runs the line with the distance of its slope from 0.5 as validation loss, which first falls, then rises. */
    async function validated(folder: string, patience?: number, stopAt?: number, steps = config.steps) {
      const slopes: number[] = [];
      const stop = new StopSignal();
      const line = lineObjective((step) => {
        slopes[step] = w.dataSync()[0]!;
        if (step === stopAt) process.emit('SIGINT');
      });
      const w = line.params['w']!;
      const objective: Objective = {
        ...line,
        validate: async () => ({ loss: Math.abs(w.dataSync()[0]! - 0.5), retrieval: 0.25, chance: 0.125 }),
      };
      const logged = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
      try {
        const settings = { ...config, steps };
        const validation = { every: 2, patience };
        const options = { name: 'line', folder: join(root, folder), config: settings, fingerprint: {} };
        const result = await runStage({ ...options, objective, stop, validation });
        return { ...result, slopes, kept: Array.from(w.dataSync()), log: logged.mock.calls.join('') };
      } finally {
        vi.restoreAllMocks();
        stop.dispose();
        line.dispose();
      }
    }
    const checks = (folder: string) =>
      readMetrics(join(root, folder, 'metrics.jsonl')).map(({ step, loss, validation }) => ({
        step,
        loss,
        validation,
      }));

    it('checks at every interval and at the last step, and keeps the weights of the lowest loss', async () => {
      const { best, steps, slopes, kept, log } = await validated('validated', undefined, undefined, 11);
      expect(steps).toBe(11);
      const lines = checks('validated').filter(({ validation }) => validation);
      expect(lines.map(({ step }) => step)).toEqual([1, 3, 5, 7, 9, 10]);
      const lowest = Math.min(...lines.map(({ validation }) => validation!.loss));
      expect(best).toMatchObject({ loss: lowest, retrieval: 0.25 });
      expect(best!.step).toBeGreaterThan(2);
      expect(best!.step).toBeLessThan(10);
      expect(kept[0]).toBe(slopes[best!.step - 1]);
      expect(log).toContain(
        `line: step ${best!.step}: validation loss ${lowest.toFixed(3)}, retrieval 0.250 (chance 0.125), the best so far\n`,
      );
      expect(log).toMatch(new RegExp(`line: 11 steps, loss \\S+, kept the weights of step ${best!.step}, validation`));
    });

    it('ends after a number of checks without a lower loss, and does nothing when it runs again', async () => {
      const whole = await validated('whole validated');
      const early = await validated('early', 1);
      expect(early.best).toEqual({ ...whole.best, since: 1 });
      expect(early.steps).toBe(whole.best!.step + 2);
      expect(early.steps).toBeLessThan(config.steps);
      expect(early.kept).toEqual(whole.kept);
      expect(early.log).toMatch(new RegExp(`line: ended early after ${early.steps} steps, loss .*, kept the weights`));
      const again = await validated('early', 1);
      expect([again.slopes, again.steps, again.kept]).toEqual([[], early.steps, early.kept]);
      // More patience resumes it.
      expect((await validated('early', 9)).metrics.map((m) => m.loss)).toEqual(whole.metrics.map((m) => m.loss));
    });

    it.each([2, 5, 8])('stopped after step %i and resumed, gives the same checks, end and weights', async (stopAt) => {
      const whole = await validated(`whole ${stopAt}`, 2);
      await expect(validated(`stopped ${stopAt}`, 2, stopAt)).rejects.toThrow(Interrupted);
      const { best, steps, kept } = await validated(`stopped ${stopAt}`, 2);
      expect({ best, steps, kept }).toEqual({ best: whole.best, steps: whole.steps, kept: whole.kept });
      expect(checks(`stopped ${stopAt}`)).toEqual(checks(`whole ${stopAt}`));
    });
  });

  it('warns if a loss ended far above its start', async () => {
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const warnings = async (learningRate: number) => {
      write.mockClear();
      await run(`rate ${learningRate}`, { train: { learningRate } });
      return write.mock.calls.join('').match(/Warning.*/g);
    };
    expect(await warnings(10)).toEqual([
      expect.stringMatching(
        /^Warning: line: the loss of line rose from \S+ to \S+, so the training diverged\. Lower train\.learningRate and start over with --fresh\.$/,
      ),
    ]);
    expect(await warnings(0.1)).toBeNull();
    vi.restoreAllMocks();
  });

  it('ends at a loss that is not finite, and names it', async () => {
    const w = constantVariable([], 0);
    const stop = new StopSignal();
    const objective: Objective = {
      params: { w },
      decays: () => false,
      prepare: async () => ({ losses: () => [{ name: 'bad', weight: 1, loss: () => tf.div(w, 0) as tf.Scalar }] }),
    };
    const options = { name: 'bad', folder: join(root, 'bad'), config, fingerprint: {}, objective, stop };
    await expect(runStage(options)).rejects.toThrow(/bad: the loss at step 0 is NaN.*expected a finite number/);
    stop.dispose();
    w.dispose();
    expect(existsSync(join(root, 'bad', 'checkpoints', 'step-000001'))).toBe(false);
  });

  describe('with values that are not finite', () => {
    /** Runs a stage that trains two weights with a loss. @param spoil changes them after each update */
    async function broken(
      folder: string,
      loss: (w: tf.Variable, step: number) => tf.Scalar,
      train: object = {},
      spoil: (w: tf.Variable) => void = () => undefined,
    ) {
      const w = constantVariable([2], 0.5);
      const stop = new StopSignal();
      const before = tf.memory().numTensors;
      try {
        await runStage({
          name: 'line',
          folder: join(root, folder),
          config: { ...config, ...train },
          fingerprint: {},
          stop,
          objective: {
            params: { ok: constant, w },
            decays: () => false,
            afterUpdate: () => tf.tidy(() => spoil(w)),
            prepare: async (step) => ({
              losses: () => [{ name: 'l', weight: 1, loss: () => tf.tidy(() => loss(w, step)) }],
            }),
          },
        });
      } finally {
        expect(tf.memory().numTensors).toBe(before);
        stop.dispose();
        w.dispose();
      }
    }
    let constant: tf.Variable;
    beforeAll(() => {
      constant = constantVariable([1], 1);
    });
    afterAll(() => constant.dispose());
    const distance = (w: tf.Variable) => tf.add(tf.mean(tf.square(tf.sub(w, 3))), tf.sum(constant)) as tf.Scalar;
    // The norm of a zero vector has no gradient: sqrt at 0.
    const nanGradientAt = (bad: number) => (w: tf.Variable, step: number) =>
      tf.add(distance(w), tf.norm(tf.mul(w, step === bad ? 0 : 1))) as tf.Scalar;
    const weights = async (folder: string) => {
      const checkpoints = join(root, folder, 'checkpoints');
      const names = existsSync(checkpoints) ? readdirSync(checkpoints) : [];
      const states = names.map((name) => readState(join(checkpoints, name, 'model.safetensors')));
      return (await Promise.all(states)).map((state) => Array.from(state['w']!.data));
    };

    it('stops before an update with a NaN gradient, and names its tensor and the newest good checkpoint', async () => {
      const run = () => broken('nan gradient', nanGradientAt(6));
      const message =
        /line: the gradient norm at step 6 is NaN, because of the gradient of w, expected a finite number\. The newest good checkpoint is .+step-000005\. Lower/;
      await expect(run()).rejects.toThrow(message);
      const saved = await weights('nan gradient');
      expect(saved).toHaveLength(1);
      expect(saved.flat().every(Number.isFinite)).toBe(true);
      await expect(run()).rejects.toThrow(message);
    });

    it('also stops at the last step', async () => {
      await expect(broken('nan last', nanGradientAt(11), { checkpointEvery: 100 })).rejects.toThrow(
        /at step 11 is NaN, because of the gradient of w.*There is no checkpoint yet/,
      );
      expect(await weights('nan last')).toEqual([]);
    });

    it.each([1, 3])('saves no weights that are too large to compute a loss, in %i steps', async (steps) => {
      const far = (w: tf.Variable) => tf.sub(tf.exp(tf.sum(tf.square(w))), tf.exp(tf.sum(tf.square(w)))) as tf.Scalar;
      const loss = (w: tf.Variable, step: number) =>
        (step === 0 ? distance(w) : tf.add(distance(w), far(w))) as tf.Scalar;
      const train = { steps, learningRate: 1e20, warmupSteps: 0, checkpointEvery: 1 };
      await expect(broken(`far ${steps}`, loss, train)).rejects.toThrow(/after the update of step 0|at step 1/);
      expect(await weights(`far ${steps}`)).toEqual([]);
    });

    it('saves no weights that an update made NaN', async () => {
      await expect(broken('spoiled', distance, { steps: 1 }, (w) => w.assign(tf.mul(w, NaN)))).rejects.toThrow(
        /line: the loss after the update of step 0 is NaN/,
      );
      expect(await weights('spoiled')).toEqual([]);
    });
  });

  describe('with a damaged metrics file', () => {
    it('repairs a last line that a kill has truncated', async () => {
      await expect(run('cut', { stopAt: 6 })).rejects.toThrow(Interrupted);
      writeFileSync(join(root, 'cut', 'metrics.jsonl'), '{"step":7,"lo', { flag: 'a' });
      await run('cut');
      expect(losses('cut')).toEqual(losses('whole'));
    });

    it.each(['{"step":2,"lo', 'nonsense', '5', '{"loss":1}'])(
      'names a damaged line before the last: %j',
      async (line) => {
        const file = join(root, 'line.jsonl');
        writeFileSync(file, `{"step":0,"loss":1}\n${line}\n{"step":2,"loss":1}\n`);
        expect(() => readMetrics(file)).toThrow(/line\.jsonl, line 2: expected the metrics of a step, got/);
      },
    );
  });

  it.runIf(existsSync('/dev/full'))('names the file and what is lost when the disk is full', async () => {
    const folder = join(root, 'full');
    mkdirSync(folder);
    symlinkSync('/dev/full', join(folder, 'metrics.jsonl.tmp'));
    await expect(run('full')).rejects.toThrow(
      /full\/metrics\.jsonl: cannot be written, no space is left on the device \(ENOSPC/,
    );
  });

  it('stops its progress bar when it fails, because the timer would keep the process alive', async () => {
    const { isTTY } = process.stderr;
    process.stderr.isTTY = true;
    vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    const before = timers();
    for (let i = 0; i < 5; i++) {
      await expect(run(`terminal ${i}`, { failAt: 3 })).rejects.toThrow('no data for step 3');
    }
    // Other timers may come and go meanwhile, but five bars would remain.
    expect(timers()).toBeLessThan(before + 3);
    process.stderr.isTTY = isTTY;
    vi.restoreAllMocks();
  });

  it('reports data that fails while the previous step computes', async () => {
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    await expect(run('failing', { failAt: 3 })).rejects.toThrow('no data for step 3');
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
    expect(losses('failing')).toHaveLength(3);
  });

  describe('reports how long it waited for data', () => {
    const COMPUTING = 1000;
    afterEach(() => void vi.restoreAllMocks());

    /**
     * Runs with a fake clock that only computing and the data source advance, so that the load of the machine cannot
     * change the figures.
     *
     * @param preparing milliseconds that the loop waits for the data of a step; 0 if workers prepare it meanwhile
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
      // No checkpoints in between, because data that is prepared while one is written causes no waiting.
      const rareCheckpoints = { ...config, checkpointEvery: config.steps };
      const options = {
        name: 'line',
        folder: join(root, folder),
        config: rareCheckpoints,
        fingerprint: {},
        objective,
        stop,
      };
      try {
        return { ...(await runStage(options)), lastLine: lines.at(-1) };
      } finally {
        stop.dispose();
        line.dispose();
      }
    }

    it('with a slow source: in the metrics, the result and the last line', async () => {
      const { metrics, seconds, waitedShare, lastLine } = await timed('slow source', 3000);
      expect(metrics.at(-1)).toMatchObject({ seconds: 12 * 4, waited: 12 * 3, waitedShare: 0.75 });
      expect(readMetrics(join(root, 'slow source', 'metrics.jsonl'))).toEqual(metrics);
      expect({ seconds, waitedShare }).toEqual({ seconds: 48, waitedShare: 0.75 });
      expect(lastLine).toMatch(/^line: 12 steps, loss \d+\.\d+, 75\.0% of the time waiting for data/);
    });

    it('with data that is ready in time: no time', async () => {
      const { metrics, lastLine } = await timed('quick source', 0);
      expect(metrics.at(-1)).toMatchObject({ seconds: 12, waited: 0, waitedShare: 0 });
      expect(lastLine).toContain(', 0.0% of the time waiting for data');
    });

    it('over all runs of a stopped stage', async () => {
      await expect(timed('slow and stopped', 3000, 5)).rejects.toThrow(Interrupted);
      const first = readMetrics(join(root, 'slow and stopped', 'metrics.jsonl')).at(-1)!;
      const { metrics } = await timed('slow and stopped', 0);
      expect(metrics.at(-1)).toMatchObject({ seconds: first.seconds + 6, waited: first.waited });
      expect(metrics.at(-1)!.waitedShare).toBeCloseTo(first.waited / (first.seconds + 6), 12);
    });

    it('without the time of a frozen encoder', async () => {
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
      const options = { name: 'line', folder: join(root, 'encoder'), config, fingerprint: {}, objective, stop };
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
