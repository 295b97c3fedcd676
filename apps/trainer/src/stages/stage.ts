import { appendFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CheckpointFolder } from '@flamingo-ts/checkpoint';
import { prefetch, type Prefetchable } from '@flamingo-ts/data-mixtures';
import { globalNorm, loadState, stateOf, valueAndGrads, type StateTensor } from '@flamingo-ts/kernels';
import { disposeOptimizer, restoreOptimizer, saveOptimizer } from '@flamingo-ts/optim';
import * as tf from '@tensorflow/tfjs-core';
import { startProgress } from '../cli/progress';
import { Interrupted, type StopSignal } from '../cli/stop-signal';
import type { OptimizerConfig } from '../config/config';
import { makeFolder, replaceFile, writeError } from './files';
import { differences, type Fingerprint } from './fingerprint';
import { describeCheck, readMetrics, type StepMetrics, type ValidationMetrics } from './metrics';
import { createOptimizer, learningRateOf } from './optimizer';

/** Folder of the checkpoints in a stage's folder. */
export const CHECKPOINTS = 'checkpoints';
export const METRICS_FILE = 'metrics.jsonl';

/** One loss of a step. A step has one for each dataset, and their gradients are summed (Flamingo, section 2.4). */
export interface Loss {
  /** Named in the metrics. */
  readonly name: string;
  readonly weight: number;
  /** Computes the loss from data in memory; may be called more than once. */
  readonly loss: () => tf.Scalar;
}

/** The data of one step. */
export interface PreparedStep {
  /** Called once, when the step begins. Runs frozen encoders first. */
  losses(): readonly Loss[];
  /** Position in the data after this step, as JSON; saved with the parameters of this step. */
  readonly cursor?: unknown;
}

/** What a training stage learns, and the data it learns from. */
export interface Objective {
  /** Trained parameters by name. */
  readonly params: Readonly<Record<string, tf.Variable>>;
  /** Whether weight decay applies to a parameter. */
  decays(name: string, shape: readonly number[]): boolean;
  /** Prepares the data of a step. Called once for each step, in order, up to `AHEAD` steps before the step begins. */
  prepare(step: number): Promise<PreparedStep>;
  /** Resolves once all steps in preparation wait only for worker threads. By default, resolves immediately. */
  whenDispatched?(): Promise<void>;
  /** Resumes after the step that returned this cursor. Required if the result of `prepare` depends on more than the step. */
  resume?(cursor: unknown): void;
  /** Called after the update of a step. */
  afterUpdate?(step: number): void;
  /** Additional figures of a step for the metrics. */
  figures?(): Record<string, number>;
  /** Measures the weights on data that is never trained on, with the same result each time. */
  validate?(): Promise<ValidationMetrics>;
  /** Measured once, after the last step. */
  measure?(): Promise<Record<string, number>>;
}

export interface StageOptions {
  /** Named in progress and errors: `pretrain-vision`. */
  readonly name: string;
  readonly folder: string;
  readonly config: OptimizerConfig;
  /** What the weights depend on besides `config`. A checkpoint with another fingerprint is not resumed. */
  readonly fingerprint: Fingerprint;
  readonly objective: Objective;
  readonly stop: StopSignal;
  /** When to validate, if the objective can. */
  readonly validation?: { readonly every: number; readonly patience?: number | undefined } | undefined;
  /** Called before the first step of this run, once the checkpoint to resume from is accepted. */
  readonly begin?: (() => void) | undefined;
  /** Called with the metrics of each step of this run. */
  readonly onStep?: ((metrics: StepMetrics) => void) | undefined;
}

export interface StageResult {
  readonly metrics: readonly StepMetrics[];
  readonly measured: Readonly<Record<string, number>>;
  /** Steps done: fewer than configured if the stage ended early. */
  readonly steps: number;
  /** The check whose weights are kept. */
  readonly best?: BestCheck | undefined;
  readonly seconds: number;
  /** Share of the seconds spent waiting for data. */
  readonly waitedShare: number;
}

/** The check with the lowest loss. */
export interface BestCheck extends ValidationMetrics {
  /** Steps done before it. */
  readonly step: number;
  /** Checks since then. */
  readonly since: number;
}

/** Contents of a checkpoint besides tensors. */
interface CheckpointState {
  readonly fingerprint: Fingerprint;
  readonly train: OptimizerConfig;
  readonly cursor?: unknown;
  /** The weights of this check are the part `best`. */
  readonly best?: BestCheck;
}

/** Steps to prepare while one computes. With only one, workers that finish early would wait for the next step. */
const AHEAD = 2;

/**
 * Trains until the last step: prepare, gradients of every loss, clip, update, write metrics. Resumes from the newest
 * whole checkpoint in the folder if there is one; the losses are then those of a run that was never stopped. `config` may
 * change between runs, for example to add steps: the learning rate then follows the new one.
 *
 * With validation, the objective ends with the weights of the check with the lowest loss, and after `patience` checks without
 * a lower one. Checkpoints contain them, so a resumed run ends with the same weights.
 *
 * A checkpoint is written only if its weights produce a finite loss and finite gradients. A step whose gradients are
 * not finite ends the stage before any weight is updated.
 */
export async function runStage(options: StageOptions): Promise<StageResult> {
  const { name, folder, config, fingerprint, objective, stop, validation } = options;
  const { params } = objective;
  makeFolder(folder);
  const metricsFile = join(folder, METRICS_FILE);
  const checkpoints = new CheckpointFolder<CheckpointState>(join(folder, CHECKPOINTS), { keep: 2 });
  const latest = await checkpoints.latest();
  let from = 0;
  let newest = 'There is no checkpoint yet';
  if (latest) {
    for (const damaged of latest.skipped) process.stderr.write(`${name}: skipped a damaged checkpoint: ${damaged}\n`);
    expectSame(name, latest, fingerprint, config);
    from = latest.step;
    newest = `The newest good checkpoint is ${latest.path}`;
  } else {
    rmSync(metricsFile, { force: true });
  }

  let gradients: Record<string, tf.Tensor> = {};
  let step = from;
  const fail = (problem: string) =>
    new Error(
      `${name}: ${problem}, expected a finite number. ${newest}. ` +
        'Lower train.learningRate or train.clipNorm and run the command again, or check the data.',
    );
  const expectFiniteNorm = (norm: number, when: string) => {
    if (!Number.isFinite(norm)) {
      throw fail(`the gradient norm ${when} is ${norm}, because of the gradient of ${worst(gradients)}`);
    }
    return norm;
  };
  let gradientNorm = 0;
  // AdamW calls this before it changes anything.
  const onNorm = (norm: number) => (gradientNorm = expectFiniteNorm(norm, `at step ${step}`));
  const optimizer = createOptimizer(config, (key, param) => objective.decays(key, param.shape), onNorm);
  const optimizerState = optimizer.init(params);
  if (latest) {
    loadState(params, await latest.read('model'), { what: latest.path });
    restoreOptimizer(optimizerState, await latest.read('optimizer'));
    if (latest.state.cursor !== undefined) objective.resume?.(latest.state.cursor);
  }
  let best = latest?.state.best;
  let bestWeights = best && (await latest!.read('best'));
  const isExhausted = () => validation?.patience !== undefined && (best?.since ?? 0) >= validation.patience;

  options.begin?.();
  const metrics = readMetrics(metricsFile).filter((m) => m.step < from);
  replaceFile(metricsFile, metrics.map((m) => `${JSON.stringify(m)}\n`).join(''));
  const secondsBefore = metrics.at(-1)?.seconds ?? 0;
  let waited = metrics.at(-1)?.waited ?? 0;
  const rate = learningRateOf(config);

  /** Fills `gradients` and returns the losses. */
  const differentiate = (parts: readonly Loss[], when: string) => {
    const values: Record<string, number> = {};
    for (const part of parts) values[part.name] = addGradients(part, params, gradients);
    const loss = parts.reduce((sum, part) => sum + part.weight * values[part.name]!, 0);
    if (!Number.isFinite(loss)) throw fail(`the loss ${when} is ${loss} (${JSON.stringify(values)})`);
    return { loss, values };
  };
  const clearGradients = () => {
    tf.dispose(gradients);
    gradients = {};
  };

  const save = async (parts: readonly Loss[], cursor: unknown) => {
    // Finite weights may still be too large to compute with.
    const when = `after the update of step ${step - 1}`;
    differentiate(parts, when);
    expectFiniteNorm(
      tf.tidy(() => globalNorm(Object.values(gradients)).dataSync()[0]!),
      when,
    );
    clearGradients();
    const state = {
      model: await stateOf(params),
      optimizer: await saveOptimizer(optimizerState),
      ...(bestWeights && { best: bestWeights }),
    };
    try {
      const path = await checkpoints.save(step, state, { fingerprint, train: config, cursor, ...(best && { best }) });
      newest = `The newest good checkpoint is ${path}`;
    } catch (error) {
      const lost = `The checkpoint of step ${step} is lost. ${newest}; run the same command again to resume from it.`;
      throw writeError(error, checkpoints.path, lost);
    }
  };

  /** Measures the weights after `step` steps, and keeps them if they are the best so far. */
  const validate = async (): Promise<ValidationMetrics | undefined> => {
    const isDue = validation && (step % validation.every === 0 || step === config.steps);
    if (!isDue || !objective.validate) return undefined;
    const measured = await objective.validate();
    if (!Number.isFinite(measured.loss)) throw fail(`the validation loss after step ${step - 1} is ${measured.loss}`);
    const isBest = !best || measured.loss < best.loss;
    if (isBest) bestWeights = copyOf(await stateOf(params));
    best = isBest ? { step, ...measured, since: 0 } : { ...best!, since: best!.since + 1 };
    progress.log(`step ${step}: ${describeCheck(measured)}${isBest ? ', the best so far' : ''}`);
    return measured;
  };

  const progress = startProgress(name, config.steps, 'steps', from);
  const began = performance.now();
  const seconds = () => secondsBefore + (performance.now() - began) / 1000;
  const waitedShare = () => waited / Math.max(seconds(), 1e-9);
  try {
    // Waiting time lasts until the data of the next step arrives. Signals and messages of workers are handled meanwhile.
    let idleSince = performance.now();
    const steps = isExhausted() ? from : config.steps;
    for await (const { losses, cursor } of prefetch(dataOf(objective, from, steps), AHEAD)) {
      waited += (performance.now() - idleSince) / 1000;
      const parts = losses();
      const { loss, values } = differentiate(parts, `at step ${step}`);
      optimizer.update(gradients, optimizerState, params);
      clearGradients();
      objective.afterUpdate?.(step);
      step++;
      const validated = await validate();

      const line: StepMetrics = {
        step: step - 1,
        loss,
        losses: values,
        learningRate: rate(step - 1),
        gradientNorm,
        seconds: seconds(),
        waited,
        waitedShare: waitedShare(),
        ...(objective.figures && { figures: objective.figures() }),
        ...(validated && { validation: validated }),
      };
      metrics.push(line);
      try {
        appendFileSync(metricsFile, `${JSON.stringify(line)}\n`);
      } catch (error) {
        throw writeError(error, metricsFile, `The metrics of step ${step - 1} are lost. ${newest}.`);
      }
      options.onStep?.(line);
      progress.update(step, `loss ${loss.toFixed(3)}`);

      const isLast = step === config.steps || isExhausted();
      if (isLast || step % config.checkpointEvery === 0 || stop.requested) {
        await save(parts, cursor);
        if (stop.requested && !isLast) throw new Interrupted(name, step, folder);
      }
      if (isLast) break;
      idleSince = performance.now();
    }
    if (bestWeights) loadState(params, bestWeights, { what: 'the best weights' });
    const result = { metrics, steps: step, best, seconds: seconds(), waitedShare: waitedShare() };
    const measured = (await objective.measure?.()) ?? {};
    const final = metrics.at(-1);
    const kept = best ? `, kept the weights of step ${best.step}, ${describeCheck(best)}` : '';
    const figures = Object.entries(measured).map(([k, v]) => `, ${k} ${v.toFixed(3)}`);
    progress.stop(
      `${isExhausted() ? 'ended early after ' : ''}${step} steps, loss ${final?.loss.toFixed(3) ?? 'unknown'}` +
        `${figures.join('')}${kept}, ` +
        `${(100 * result.waitedShare).toFixed(1)}% of the time waiting for data`,
    );
    const diverged = divergence(metrics);
    if (diverged) {
      process.stderr.write(
        `Warning: ${name}: ${diverged}, so the training diverged. Lower train.learningRate and start over with --fresh.\n`,
      );
    }
    return { ...result, measured };
  } finally {
    progress.stop();
    clearGradients();
    disposeOptimizer(optimizerState);
  }
}

/** @throws Error naming what differs between a checkpoint and this run */
function expectSame(
  name: string,
  { path, step, state }: { path: string; step: number; state: CheckpointState },
  fingerprint: Fingerprint,
  config: OptimizerConfig,
): void {
  const changed = differences(fingerprint, state.fingerprint);
  if (changed.length > 0) throw new Error(anotherConfiguration(name, `the checkpoint ${path}`, changed));
  if (step > config.steps) {
    throw new Error(
      `${name}: the checkpoint ${path} is at step ${step}, expected at most train.steps: ${config.steps}. ` +
        'Raise train.steps, or start over with --fresh.',
    );
  }
  const retrained = differences(config, state.train, 'train');
  if (retrained.length > 0) process.stderr.write(`${name}: resumes at step ${step} with ${retrained.join('; ')}\n`);
}

/** The error message for a checkpoint or model with another configuration than this run. */
export function anotherConfiguration(name: string, what: string, changed: readonly string[]): string {
  return (
    `${name}: ${what} was made with another configuration:\n${changed.map((line) => `  ${line}\n`).join('')}` +
    'Restore these values, choose another out folder, or start over with --fresh.'
  );
}

/** Describes a loss that ended far above its start. The weights are finite then, but useless. */
function divergence(metrics: readonly StepMetrics[]): string | undefined {
  for (const key of Object.keys(metrics.at(-1)?.losses ?? {})) {
    const [first, ...later] = metrics.flatMap(({ losses }) => losses[key] ?? []);
    const last = later.slice(-10);
    const mean = last.reduce((sum, loss) => sum + loss, 0) / last.length;
    if (mean > 2 * first! && mean > first! + 1) {
      return `the loss of ${key} rose from ${first!.toFixed(3)} to ${mean.toFixed(3)}`;
    }
  }
  return undefined;
}

/** A backend may reuse the memory of a tensor that was read. */
function copyOf(state: Readonly<Record<string, StateTensor>>): Record<string, StateTensor> {
  return Object.fromEntries(
    Object.entries(state).map(([key, { shape, data }]) => [key, { shape, data: data.slice() }]),
  );
}

/** The data of the remaining steps. Each is requested without waiting for the previous one. */
function dataOf(objective: Objective, from: number, steps: number): Prefetchable<PreparedStep> {
  let step = from;
  return {
    [Symbol.asyncIterator]: () => ({
      next: async () =>
        step < steps ? { done: false, value: await objective.prepare(step++) } : { done: true, value: undefined },
    }),
    whenDispatched: async () => objective.whenDispatched?.(),
  };
}

/** Adds the gradients of one weighted loss to `gradients` and returns the loss. */
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

/** The first tensor with a value that is not finite, or else the one with the largest value. */
function worst(tensors: Readonly<Record<string, tf.Tensor>>): string {
  let [largest, worstName] = [-1, 'no tensor'];
  for (const [name, tensor] of Object.entries(tensors)) {
    const values = tensor.dataSync();
    if (values.some((value) => !Number.isFinite(value))) return name;
    for (const value of values) {
      if (Math.abs(value) > largest) [largest, worstName] = [Math.abs(value), name];
    }
  }
  return worstName;
}
