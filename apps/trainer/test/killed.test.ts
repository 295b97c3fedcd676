import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, signalAll, start, TINY, writeConfig, type Outcome, type Running } from './command';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-killed-'));
// Steps of the first two stages take milliseconds, so there are many, to leave a busy machine time to kill the process.
const config = {
  ...TINY,
  vision: { ...TINY.vision, train: { ...TINY.vision.train, steps: 80 } },
  lm: { ...TINY.lm, train: { ...TINY.lm.train, steps: 160 } },
};
const whole = writeConfig(folder, { ...config, out: 'whole' }, 'whole.yaml');
const killed = writeConfig(folder, { ...config, out: 'killed' }, 'killed.yaml');
afterAll(() => rmSync(folder, { recursive: true }));

const STAGES = [
  ['pretrain-vision', 'vision'],
  ['pretrain-lm', 'lm'],
  ['train', 'flamingo'],
] as const;

/** The metrics without times. */
const figures = (run: string, stage: string) =>
  readMetrics(join(folder, run, stage, 'metrics.jsonl')).map(
    ({ seconds: _, waited: __, waitedShare: ___, ...rest }) => rest,
  );

/** Step of the newest checkpoint, or 0 if there is none. */
function saved(run: string, stage: string): number {
  const checkpoints = join(folder, run, stage, 'checkpoints');
  const names = existsSync(checkpoints) ? readdirSync(checkpoints).filter((name) => name.startsWith('step-')) : [];
  return Math.max(0, ...names.map((name) => Number(name.slice('step-'.length))));
}

/**
 * Starts a stage and kills it between two checkpoints. Pauses it before each check, so that the kill comes at the right
 * moment on any machine.
 */
async function killBetweenCheckpoints(command: string, stage: string): Promise<void> {
  const running = start(folder, [command, killed]);
  let ended = false;
  void running.ended.then(() => (ended = true));
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    if (ended) throw new Error(`${command} ended before it was killed:\n${(await running.ended).stderr}`);
    if (saved('killed', stage) === 0) continue;
    signalAll(running, 'SIGSTOP');
    if (figures('killed', stage).length > saved('killed', stage)) break;
    signalAll(running, 'SIGCONT');
  }
  signalAll(running, 'SIGKILL');
  await running.ended;
}

beforeAll(async () => {
  for (const [command] of STAGES) expect(await flamingo(folder, command, whole)).toMatchObject({ status: 0 });
}, 300_000);

/** Starts a stage and acts on it after its first step. */
async function afterFirstStep(command: string, stage: string, act: (running: Running) => void): Promise<Outcome> {
  const running = start(folder, [command, killed]);
  let ended = false;
  void running.ended.then(() => (ended = true));
  while (!ended && figures('killed', stage).length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  act(running);
  return running.ended;
}

describe.each(STAGES)('%s, killed between checkpoints and resumed,', (command, stage) => {
  it('gives the losses and weights of a run that was never stopped', async () => {
    // The other stages are copies of the whole run; this one starts from scratch.
    cpSync(join(folder, 'whole'), join(folder, 'killed'), { recursive: true });
    rmSync(join(folder, 'killed', stage), { recursive: true });
    await killBetweenCheckpoints(command, stage);
    const [done, checkpoint] = [figures('killed', stage).length, saved('killed', stage)];
    expect(checkpoint).toBeGreaterThan(0);
    expect(done).toBeGreaterThan(checkpoint);
    expect(done).toBeLessThan(figures('whole', stage).length);

    expect(await flamingo(folder, command, killed)).toMatchObject({ status: 0 });
    expect(figures('killed', stage)).toEqual(figures('whole', stage));
    const weights = (run: string) => readFileSync(join(folder, run, stage, 'model.safetensors'));
    expect(Buffer.compare(weights('killed'), weights('whole'))).toBe(0);
  }, 120_000);
});

describe.each([
  // As in a terminal, the signal goes to the whole process group.
  ['Ctrl-C', (running: Running) => signalAll(running, 'SIGINT')],
  ['SIGTERM', (running: Running) => running.process.kill('SIGTERM')],
])('%s', (_, act) => {
  it('finishes the step, saves, explains how to resume, and changes no loss', async () => {
    rmSync(join(folder, 'killed'), { recursive: true, force: true });
    const { status, stderr } = await afterFirstStep('pretrain-lm', 'lm', act);
    expect(status).toBe(130);
    const step = saved('killed', 'lm');
    expect(stderr).toContain(`pretrain-lm: stopped at step ${step}, saved in killed/lm. Run the same command again`);
    expect(figures('killed', 'lm')).toHaveLength(step);
    expect(step).toBeLessThan(config.lm.train.steps);
    expect(await flamingo(folder, 'pretrain-lm', killed)).toMatchObject({ status: 0 });
    expect(figures('killed', 'lm')).toEqual(figures('whole', 'lm'));
  }, 60_000);
});
