import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CheckpointFolder } from '@flamingo-ts/checkpoint';
import { prefetch, type Prefetchable } from '@flamingo-ts/data-mixtures';
import { loadState, stateOf, valueAndGrads } from '@flamingo-ts/kernels';
import { disposeOptimizer, restoreOptimizer, saveOptimizer } from '@flamingo-ts/optim';
import * as tf from '@tensorflow/tfjs-core';
import type { OptimizerConfig } from '../config/config';
import { createOptimizer, learningRateOf } from './optimizer';
import { startProgress } from '../cli/progress';
import { replaceFile } from './replace-file';
import { Interrupted, type StopSignal } from '../cli/stop-signal';

/** The folder of a stage's checkpoints, in the stage's own. */
export const CHECKPOINTS = 'checkpoints';

/** One loss of a step; a step has one for each data set, and their gradients add up (Flamingo, section 2.4). */
export interface Loss {
  /** Named in the metrics. */
  readonly name: string;
  readonly weight: number;
  /** Computes the loss from data that are at hand already. */
  readonly loss: () => tf.Scalar;
}

/** The data of one step. */
export interface PreparedStep {
  /** Called once, when the step's turn has come: what a frozen encoder has to compute first is computed here. */
  losses(): readonly Loss[];
  /** Where the data stand after this step, as JSON; saved with the parameters it leads to. */
  readonly cursor?: unknown;
}

/** What a stage of training learns, and from what. */
export interface Objective {
  /** What is trained, by name. */
  readonly params: Readonly<Record<string, tf.Variable>>;
  /** Whether weight decay acts on a parameter. */
  decays(name: string, shape: readonly number[]): boolean;
  /** Makes the data of a step ready; called once for each step, in order, up to `AHEAD` steps before its turn. */
  prepare(step: number): Promise<PreparedStep>;
  /** Resolves once all that was to be prepared waits for workers alone. Left out: it does so at once. */
  settled?(): Promise<void>;
  /** Goes on after the step that a cursor came with. Needed where what `prepare` gives depends on more than the step. */
  resume?(cursor: unknown): void;
  /** Called after the update of a step. */
  afterUpdate?(step: number): void;
  /** More figures of a step for the metrics. */
  figures?(): Record<string, number>;
  /** Measured once at the end. */
  measure?(): Promise<Record<string, number>>;
}

/** One line of metrics.jsonl. */
export interface StepMetrics {
  readonly step: number;
  readonly loss: number;
  readonly losses: Readonly<Record<string, number>>;
  readonly learningRate: number;
  readonly gradientNorm: number;
  /** Seconds since the stage began, over all its runs. */
  readonly seconds: number;
  /** Seconds of them in which nothing was computed for want of data. */
  readonly waited: number;
  /** The same as a share of all seconds. */
  readonly waitedShare: number;
  readonly figures?: Readonly<Record<string, number>>;
}

export interface StageOptions {
  /** Named in progress and errors: `pretrain-vision`. */
  readonly name: string;
  readonly folder: string;
  readonly config: OptimizerConfig;
  /** The part of the configuration this stage depends on; a checkpoint made with another is not continued. */
  readonly fingerprint: unknown;
  readonly objective: Objective;
  readonly stop: StopSignal;
}

export interface StageResult {
  readonly metrics: readonly StepMetrics[];
  readonly measured: Readonly<Record<string, number>>;
  readonly seconds: number;
  /** Share of the seconds spent waiting for data. */
  readonly waitedShare: number;
}

/** Steps that are made ready while one computes. With one, workers that are done with it would rest until the next is asked for. */
const AHEAD = 2;

/**
 * Trains until the last step: prepare, gradients of every loss, clip, update, write down. Goes on from the newest whole
 * checkpoint in the folder if there is one, and then gives the same losses as a run that was never stopped.
 */
export async function runStage(options: StageOptions): Promise<StageResult> {
  const { name, folder, config, objective, stop } = options;
  mkdirSync(folder, { recursive: true });
  const metricsFile = join(folder, 'metrics.jsonl');
  const checkpoints = new CheckpointFolder<{ fingerprint: string; cursor?: unknown }>(join(folder, CHECKPOINTS), {
    keep: 2,
  });
  let gradientNorm = 0;
  const optimizer = createOptimizer(config, objective, (norm) => (gradientNorm = norm));
  const optimizerState = optimizer.init(objective.params);
  const rate = learningRateOf(config);

  let from = 0;
  const fingerprint = JSON.stringify(options.fingerprint);
  const latest = await checkpoints.latest();
  if (latest) {
    if (latest.state.fingerprint !== fingerprint) {
      throw new Error(
        `${name}: the checkpoint ${latest.path} was made with another configuration. ` +
          'Restore that configuration, choose another out folder, or start over with --fresh.',
      );
    }
    loadState(objective.params, await latest.read('model'), { what: latest.path });
    restoreOptimizer(optimizerState, await latest.read('optimizer'));
    if (latest.state.cursor !== undefined) objective.resume?.(latest.state.cursor);
    from = latest.step;
  } else {
    rmSync(metricsFile, { force: true });
  }
  const metrics = readMetrics(metricsFile).filter((m) => m.step < from);
  replaceFile(metricsFile, metrics.map((m) => `${JSON.stringify(m)}\n`).join(''));
  const secondsBefore = metrics.at(-1)?.seconds ?? 0;
  let waited = metrics.at(-1)?.waited ?? 0;

  const save = async (step: number, cursor: unknown) => {
    const parts = { model: await stateOf(objective.params), optimizer: await saveOptimizer(optimizerState) };
    await checkpoints.save(step, parts, { fingerprint, cursor });
  };
  const progress = startProgress(name, config.steps, 'steps', from);
  const began = performance.now();
  const seconds = () => secondsBefore + (performance.now() - began) / 1000;
  const waitedShare = () => waited / Math.max(seconds(), 1e-9);
  try {
    let step = from;
    // Everything from here until the data of a step are there is waiting; signals and workers' messages are heard in it.
    let idleSince = performance.now();
    for await (const { losses, cursor } of prefetch(dataOf(objective, from, config.steps), AHEAD)) {
      waited += (performance.now() - idleSince) / 1000;
      const values: Record<string, number> = {};
      const gradients: Record<string, tf.Tensor> = {};
      const parts = losses();
      for (const part of parts) values[part.name] = addGradients(part, objective.params, gradients);
      const loss = parts.reduce((sum, part) => sum + part.weight * values[part.name]!, 0);
      if (!Number.isFinite(loss)) {
        throw new Error(
          `${name}: the loss at step ${step} is ${loss} (${JSON.stringify(values)}), expected a finite number. ` +
            `The newest whole checkpoint is in ${join(folder, CHECKPOINTS)}; lower train.learningRate or clipNorm and start over.`,
        );
      }
      optimizer.update(gradients, optimizerState, objective.params);
      tf.dispose(gradients);
      objective.afterUpdate?.(step);

      const line: StepMetrics = {
        step,
        loss,
        losses: values,
        learningRate: rate(step),
        gradientNorm,
        seconds: seconds(),
        waited,
        waitedShare: waitedShare(),
        ...(objective.figures && { figures: objective.figures() }),
      };
      metrics.push(line);
      appendFileSync(metricsFile, `${JSON.stringify(line)}\n`);
      progress.update(step + 1, `loss ${loss.toFixed(3)}`);

      step++;
      const isLast = step === config.steps;
      if (isLast || step % config.checkpointEvery === 0 || stop.requested) {
        await save(step, cursor);
        if (stop.requested && !isLast) throw new Interrupted(name, step, folder);
      }
      idleSince = performance.now();
    }
    const result = { metrics, seconds: seconds(), waitedShare: waitedShare() };
    const measured = (await objective.measure?.()) ?? {};
    const final = metrics.at(-1);
    const figures = Object.entries(measured).map(([k, v]) => `, ${k} ${v.toFixed(3)}`);
    progress.stop(
      `${config.steps} steps, loss ${final?.loss.toFixed(3) ?? 'unknown'}${figures.join('')}, ` +
        `${(100 * result.waitedShare).toFixed(1)}% of the time waiting for data`,
    );
    return { ...result, measured };
  } finally {
    progress.stop();
    disposeOptimizer(optimizerState);
  }
}

/** The data of the steps that are left. Each is asked for without waiting for the one before. */
function dataOf(objective: Objective, from: number, steps: number): Prefetchable<PreparedStep> {
  let step = from;
  return {
    [Symbol.asyncIterator]: () => ({
      next: async () =>
        step < steps ? { done: false, value: await objective.prepare(step++) } : { done: true, value: undefined },
    }),
    settled: async () => objective.settled?.(),
  };
}

/** Adds the gradients of one weighted loss to those already there and returns the loss. */
function addGradients(
  { weight, loss }: Loss,
  params: Readonly<Record<string, tf.Variable>>,
  gradients: Record<string, tf.Tensor>,
): number {
  const { value, grads } = valueAndGrads(() => tf.mul(loss(), weight) as tf.Scalar, params);
  for (const [name, gradient] of Object.entries(grads)) {
    const sum = gradients[name];
    gradients[name] = sum ? tf.add(sum, gradient) : gradient;
    if (sum) tf.dispose([sum, gradient]);
  }
  const number = value.dataSync()[0]! / weight;
  value.dispose();
  return number;
}

/** Lines of a metrics file; an unfinished last line of a killed run is left out. */
export function readMetrics(file: string): StepMetrics[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return line ? [JSON.parse(line) as StepMetrics] : [];
      } catch {
        return [];
      }
    });
}
