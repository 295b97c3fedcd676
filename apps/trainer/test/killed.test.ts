import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stage';
import { flamingo, signalAll, start, TINY, writeConfig } from './command';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-killed-'));
const whole = writeConfig(folder, { ...TINY, out: 'whole' }, 'whole.yaml');
const killed = writeConfig(folder, { ...TINY, out: 'killed' }, 'killed.yaml');
afterAll(() => rmSync(folder, { recursive: true }));

const STAGES = [
  ['pretrain-vision', 'vision'],
  ['pretrain-lm', 'lm'],
  ['train', 'flamingo'],
] as const;

/** Everything in the metrics that does not tell the time. */
const figures = (run: string, stage: string) =>
  readMetrics(join(folder, run, stage, 'metrics.jsonl')).map(({ seconds: _, waited: __, ...rest }) => rest);

/** Steps of the newest checkpoint, 0 without one. */
function saved(run: string, stage: string): number {
  const checkpoints = join(folder, run, stage, 'checkpoints');
  const names = existsSync(checkpoints) ? readdirSync(checkpoints).filter((name) => name.startsWith('step-')) : [];
  return Math.max(0, ...names.map((name) => Number(name.slice('step-'.length))));
}

/**
 * Starts a stage and kills all of its processes between two checkpoints. They are halted before each look, so that the
 * kill falls where it was meant to however slow the machine is.
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

describe.each(STAGES)('%s killed between checkpoints and started again', (command, stage) => {
  it('gives the losses and weights of a run never stopped', async () => {
    // The other stages' models are those of the whole run; this one has nothing yet.
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
