import { spawn, type ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A configuration so small that every stage takes seconds. It learns nothing, but runs everything. */
export const TINY = {
  seed: 3,
  out: 'run',
  data: { kind: 'emoji', maxConcepts: 60 } as object,
  vision: {
    model: {
      imageSize: 48,
      stemWidths: [8, 8],
      stemStrides: [2, 2],
      widths: [16, 16],
      depths: [1, 1],
      strides: [1, 2],
      finalWidth: 16,
    },
    textHiddenSize: 16,
    jointSize: 16,
    batch: 8,
    train: { steps: 24, learningRate: 0.003, warmupSteps: 2, weightDecay: 0.05, checkpointEvery: 5 },
  },
  lm: {
    model: { vocabSize: 320, hiddenSize: 32, numLayers: 2, numHeads: 2, headDim: 16, intermediateSize: 64 },
    tokenizerPages: 100,
    batch: 4,
    maxTokens: 32,
    train: { steps: 24, learningRate: 0.003, warmupSteps: 2, weightDecay: 0.1, checkpointEvery: 5 },
  },
  flamingo: {
    resampler: { visualSize: 16, numLayers: 1, numHeads: 2, headDim: 8, numLatents: 4 },
    xattn: { every: 1, numHeads: 2, headDim: 16 },
    gateWalk: { steps: 6, by: 0.05 },
    datasets: {
      pages: { weight: 1, batch: 2, maxTokens: 48, maxMedia: 5 },
      pairs: { weight: 0.2, batch: 2, maxTokens: 24 },
      descriptions: { weight: 0.2, batch: 2, maxTokens: 32 },
      clips: { weight: 0.03, batch: 2, maxTokens: 24 },
    },
    train: { steps: 24, learningRate: 0.003, warmupSteps: 2, weightDecay: 0.1, checkpointEvery: 5 },
  },
  eval: { shots: [0, 2], prompts: 4 },
};

/** Writes a configuration; JSON is YAML too. @returns its path */
export function writeConfig(folder: string, config: object, name = 'config.yaml'): string {
  const file = join(folder, name);
  writeFileSync(file, JSON.stringify(config));
  return file;
}

export interface Outcome {
  /** Exit status; null when a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running `flamingo` command in its own process group. */
export interface Running {
  readonly process: ChildProcess;
  readonly ended: Promise<Outcome>;
}

/** Starts the real command. @param env variables in addition to those of this process */
export function start(folder: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
  const bin = join(import.meta.dirname, '..', 'bin', 'flamingo.js');
  const child = spawn(process.execPath, [bin, ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    // Its own process group, which can be stopped and killed as a whole.
    detached: true,
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
  return { process: child, ended };
}

/** Runs the real command to its end. */
export function flamingo(folder: string, ...args: string[]): Promise<Outcome> {
  return start(folder, args).ended;
}

/** Sends a signal to the command and all of its child processes. */
export function signalAll(running: Running, signal: NodeJS.Signals): void {
  process.kill(-running.process.pid!, signal);
}
