import { fork, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, expect, it } from 'vitest';
import { LOCK_FILE, withLock } from './run-lock';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-lock-'));
const file = join(folder, LOCK_FILE);
afterEach(() => rmSync(file, { force: true }));
afterAll(() => rmSync(folder, { recursive: true }));
const lock = <T>(run: () => Promise<T>) => withLock('train', folder, run);
const holder = (value: object) => writeFileSync(file, JSON.stringify({ host: hostname(), ...value }));

/** A process that waits until it is killed. */
async function other(): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  await new Promise((resolve) => child.once('spawn', resolve));
  return child;
}

it('names this process while something runs, and is removed afterward, even after an error', async () => {
  await lock(async () => {
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ pid: process.pid, host: hostname() });
    await expect(lock(() => Promise.resolve())).rejects.toThrow(
      /train: process \d+ on this host already writes to this folder/,
    );
  });
  expect(existsSync(file)).toBe(false);
  await expect(lock(() => Promise.reject(new Error('no data')))).rejects.toThrow('no data');
  expect(readdirSync(folder)).toEqual([]);
});

it('throws while another process holds it, and takes over when that process was killed', async () => {
  const child = await other();
  holder({ pid: child.pid });
  const message = new RegExp(`process ${child.pid} on this host.*run\\.lock\\. Wait until it ends, stop it`);
  await expect(lock(() => Promise.resolve())).rejects.toThrow(message);
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
  expect(await lock(() => Promise.resolve('ran'))).toBe('ran');
});

it.runIf(process.platform === 'linux')('takes over when the process id was reused', async () => {
  holder({ pid: process.ppid, began: '1' });
  expect(await lock(() => Promise.resolve('ran'))).toBe('ran');
});

it('takes over a lock with its own process id, as after a restart of a container', async () => {
  holder({ pid: process.pid });
  expect(await lock(() => Promise.resolve('ran'))).toBe('ran');
});

it('throws if a process on another host holds it, and explains how to remove the lock', async () => {
  holder({ pid: 1, host: 'far-away' });
  await expect(lock(() => Promise.resolve())).rejects.toThrow(
    /process 1 on host far-away writes to this folder.*cannot check whether it still runs\. If it has ended, remove that file/,
  );
});

it.each(['', '{"pid":', '5'])('takes over a lock that a kill has truncated: %j', async (text) => {
  writeFileSync(file, text);
  expect(await lock(() => Promise.resolve('ran'))).toBe('ran');
});

it('is held by only one of several processes that take over a lock at the same time', async () => {
  const script = `
    import { withLock } from ${JSON.stringify(join(import.meta.dirname, 'run-lock.ts'))};
    process.once('message', () =>
      withLock('train', ${JSON.stringify(folder)}, () => new Promise((resolve) => {
        process.send('holds');
        process.once('message', resolve);
      })).catch(() => process.send('refused')).finally(() => process.disconnect()),
    );
    process.send('ready');`;
  const at = join(folder, 'start.ts');
  writeFileSync(at, script);
  holder({ pid: 2 ** 22 + 1 });
  const children = Array.from({ length: 4 }, () => fork(at, [], { execArgv: ['--import', 'tsx'] }));
  const next = (child: ChildProcess) => new Promise<unknown>((resolve) => child.once('message', resolve));
  await Promise.all(children.map(next));
  const messages = children.map(next);
  for (const child of children) child.send('start');
  const outcomes = await Promise.all(messages);
  expect([...outcomes].sort()).toEqual(['holds', 'refused', 'refused', 'refused']);
  children[outcomes.indexOf('holds')]!.send('end');
  await Promise.all(children.map((child) => child.exitCode ?? new Promise((resolve) => child.once('exit', resolve))));
  rmSync(at);
  expect(readdirSync(folder)).toEqual([]);
}, 60_000);
