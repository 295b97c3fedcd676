import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { Queue } from 'bullmq';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { redisServer, TestRedis } from './redis';
import { contents, pageOf, image } from './sample-pages';
import { extractPages } from '../src/job/job';
import { throughRedis, runPageWorker } from '../src/job/queue';
import { WorkFolder } from '../src/job/work-folder';

const scratch = mkdtempSync(path.join(tmpdir(), 'queue-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
const children = new Set<ChildProcess>();
const start = (script: string, ...args: string[]) => {
  const command = ['--import', tsx, path.join(import.meta.dirname, script), ...args];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'inherit'] });
  children.add(child.on('exit', () => children.delete(child)));
  return child;
};
// Kills what a failed test left running.
afterAll(() => children.forEach((child) => child.kill('SIGKILL')));
const kill = async (child: ChildProcess) => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
};

async function folderOfPages(count: number): Promise<string> {
  const input = mkdtempSync(path.join(scratch, 'pages-'));
  for (let i = 0; i < 5; i++) writeFileSync(path.join(input, `p${i}.png`), await image(i));
  for (let i = 0; i < count; i++) writeFileSync(path.join(input, `page${i}.html`), pageOf(i, `p${i % 5}.png`));
  return input;
}

/** A hook that exits its thread at a page with `text`, until `fix` is called. */
function crashingHook(text: string): { hook: string; fix: () => void } {
  const folder = mkdtempSync(path.join(scratch, 'hook-'));
  const hook = path.join(folder, 'hook.mjs');
  const fixed = path.join(folder, 'fixed');
  writeFileSync(
    hook,
    `import { existsSync } from 'node:fs';
     export const text = (text) => text.includes(${JSON.stringify(text)}) && !existsSync('${fixed}') && process.exit(3);`,
  );
  return { hook, fix: () => writeFileSync(fixed, '') };
}

describe('a unit that fails repeatedly', () => {
  it('is named by the error, retried by the next call, and can be skipped', async () => {
    const inputs = [await folderOfPages(200)];
    const { hook, fix } = crashingHook('of 70\n');
    const options = { inputs, explicitHook: hook, workers: 1 };
    const out = path.join(scratch, 'failing');
    await expect(extractPages({ ...options, out })).rejects.toThrow(
      /1 of 13 units failed 3 times[^]*pages-\w+, from page\d+\.html: its thread exited with code 3[^]*--skip-failed/,
    );
    const skipped = await extractPages({ ...options, out: `${out}-skipped`, skipFailed: true });
    expect(skipped).toMatchObject({ pages: 184, dropped: { 'unit: failed': 1 } });
    expect(skipped.failures).toEqual([expect.stringMatching(/its thread exited with code 3/)]);
    fix();
    const progress: number[] = [];
    const retried = await extractPages({ ...options, out, onProgress: ({ pages }) => progress.push(pages) });
    expect(retried).toMatchObject({ pages: 200, failures: [] });
    expect(progress.at(-1)).toBe(16);
  }, 180_000);
});

describe.skipIf(!redisServer)('extractPages through Redis (npm run setup:redis installs the server)', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await TestRedis.start();
  });
  afterAll(() => redis.kill());

  /** Kills a worker every few seconds, and the server and the coordinator once. */
  const extractDisturbed = async (input: string, out: string, kills: number) => {
    const restart = () => start('extract-child.mts', out, redis.url, input);
    const workers = [start('work-child.mts', out, redis.url), start('work-child.mts', out, redis.url)];
    let extraction = restart();
    let killed = 0;
    while (extraction.exitCode === null) {
      for (let i = 0; i < 40 && extraction.exitCode === null; i++) await sleep(100);
      // Stop after enough kills, so that slow machines finish.
      if (extraction.exitCode !== null || killed === kills) continue;
      await kill(workers[killed % 2]!);
      workers[killed % 2] = start('work-child.mts', out, redis.url);
      if (killed === 1) {
        await redis.kill();
        await sleep(500);
        await redis.start();
      }
      if (killed === 2) {
        await kill(extraction);
        extraction = restart();
      }
      killed++;
    }
    expect(extraction.exitCode).toBe(0);
    // Workers end with the job.
    await Promise.all(workers.map((worker) => worker.exitCode ?? once(worker, 'exit')));
    expect(workers.map((worker) => worker.exitCode)).toEqual([0, 0]);
    return killed;
  };

  it('writes the same bytes when workers, Redis and the coordinator are killed', async () => {
    const input = await folderOfPages(700);
    const undisturbed = path.join(scratch, 'undisturbed');
    const manifest = await extractPages({ inputs: [input], out: undisturbed, workers: 2 });
    expect(manifest.documents).toBeGreaterThan(20);
    const disturbed = path.join(scratch, 'disturbed');
    expect(await extractDisturbed(input, disturbed, 6)).toBeGreaterThan(2);
    expect(contents(disturbed)).toEqual(contents(undisturbed));
  }, 400_000);

  // apt-get download gimp-help-en && dpkg -x gimp-help-en_*.deb FOLDER
  const help = path.join(process.env['FLAMINGO_GIMP_HELP'] ?? '', 'usr/share/gimp/2.0/help/en');
  it.skipIf(!process.env['FLAMINGO_GIMP_HELP'])(
    'writes the same bytes for gimp-help-en (FLAMINGO_GIMP_HELP names the folder where it is unpacked)',
    async () => {
      const undisturbed = path.join(scratch, 'help');
      const manifest = await extractPages({ inputs: [help], out: undisturbed, workers: 2 });
      expect(manifest.documents).toBeGreaterThan(300);
      const disturbed = path.join(scratch, 'help-disturbed');
      const kills = await extractDisturbed(help, disturbed, 100);
      console.log(`${kills} kills; ${Object.keys(contents(disturbed)).length} files`);
      expect(contents(disturbed)).toEqual(contents(undisturbed));
    },
    600_000,
  );

  it('keeps failed jobs for inspection, and retries them with the next call', async () => {
    const inputs = [await folderOfPages(200)];
    const { hook, fix } = crashingHook('of 70\n');
    const out = path.join(scratch, 'failed');
    const options = { inputs, out, explicitHook: hook, redis: redis.url };
    const first = runPageWorker({ out, redis: redis.url, workers: 2, explicitHook: hook });
    await expect(extractPages(options)).rejects.toThrow(
      /1 of 13 units failed 3 times[^]*its thread exited with code 3/,
    );
    const { job } = JSON.parse(readFileSync(path.join(out, 'job.json'), 'utf8')) as { job: string };
    const queue = new Queue(`flamingo-pages-${job.slice(0, 24)}`, { connection: { url: redis.url } });
    const [failed, ...others] = await queue.getFailed();
    expect(others).toEqual([]);
    expect(failed).toMatchObject({
      id: 'unit-0-10',
      attemptsMade: 3,
      failedReason: expect.stringContaining('exited with code 3'),
    });
    await expect(runPageWorker({ out, redis: redis.url })).rejects.toThrow(
      /expected the one that the job .* got no hook/,
    );
    fix();
    expect((await extractPages(options)).pages).toBe(200);
    expect(await first).toBe(13);
    expect(await queue.getJobCounts()).toMatchObject({ failed: 0, waiting: 0, completed: 0 });
    await queue.close();
  }, 180_000);

  it('reports missing workers and servers', async () => {
    const inputs = [await folderOfPages(1)];
    const problems = new Set<string>();
    const out = path.join(scratch, 'lonely');
    const job = extractPages({
      inputs,
      out,
      redis: redis.url,
      onProgress: ({ problem }) => problem && problems.add(problem),
    });
    while (problems.size === 0) await sleep(100);
    expect([...problems]).toEqual(['no worker has connected yet']);
    const done = runPageWorker({ out, redis: redis.url });
    expect((await job).pages).toBe(1);
    expect(await done).toBe(1);

    const other = { inputs, out: path.join(scratch, 'nowhere') };
    await expect(extractPages({ ...other, redis: 'localhost' })).rejects.toThrow(/expected a URL such as redis:/);
    await expect(extractPages({ ...other, redis: 'redis://127.0.0.1:1' })).rejects.toThrow(
      /Redis at 127\.0\.0\.1:1 does not respond \(.*ECONNREFUSED.*\)\. Start it/,
    );
    mkdirSync(path.join(scratch, 'waits'));
    const signal = AbortSignal.timeout(700);
    expect(await runPageWorker({ out: path.join(scratch, 'waits'), redis: redis.url, signal })).toBe(0);
  }, 180_000);

  it('succeeds if Redis has stopped at the end', async () => {
    const out = mkdtempSync(path.join(scratch, 'gone-'));
    const work = new WorkFolder(path.join(out, 'work'));
    mkdirSync(work.path);
    writeFileSync(work.config, JSON.stringify({ job: 'a'.repeat(64), config: { preset: 'm3w' } }));
    const gone = await TestRedis.start();
    const runner = await throughRedis(gone.url, 'a'.repeat(64), work, () => undefined);
    const messages: string[] = [];
    const worker = runPageWorker({ out, redis: gone.url, onProgress: (message) => messages.push(message) });
    await sleep(1000);
    await gone.kill();
    while (messages.length === 0) await sleep(100);
    expect(messages[0]).toMatch(/^Redis at 127\.0\.0\.1:\d+: /);
    await runner.finish();
    await runner.close();
    writeFileSync(path.join(out, 'manifest.json'), '{}');
    expect(await worker).toBe(0);
  }, 60_000);
});
