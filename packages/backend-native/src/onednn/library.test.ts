import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

/** What a script prints in a separate process. */
function run(script: string, env: Record<string, string> = {}, cwd = import.meta.dirname): string {
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  const args = ['--conditions=@flamingo-ts/source', '--import', tsx, '--input-type=module', '-e', script];
  return execFileSync(process.execPath, args, { env: { ...process.env, ...env }, encoding: 'utf8', cwd });
}

it('names where it looked for a missing library and how to install it', () => {
  const script = `
    import { registerNativeBackend } from '@flamingo-ts/backend-native';
    try { registerNativeBackend(); } catch (error) { console.log(error.message); }`;
  const message = run(script, { FLAMINGO_ONEDNN: '/nowhere/libdnnl.so.9' });
  expect(message).toMatch(/oneDNN was not found\. Looked at: \/nowhere\/libdnnl\.so\.9 \(not found\)/);
  expect(message).toContain('npm run setup:onednn');
});

describe.runIf(process.platform === 'linux')('the search for the library', () => {
  let work: string;
  beforeEach(() => {
    work = mkdtempSync(join(tmpdir(), 'flamingo-onednn-'));
  });
  afterEach(() => rmSync(work, { recursive: true, force: true }));

  /** The libraries that a process in this folder would load. */
  function candidates(env: Record<string, string>, cwd?: string): { path: string; refused?: string }[] {
    const script = `
      const { candidates } = await import(${JSON.stringify(new URL('library.ts', import.meta.url).href)});
      console.log(JSON.stringify(candidates()));`;
    return JSON.parse(run(script, { FLAMINGO_ONEDNN: '', ...env }, cwd)) as { path: string; refused?: string }[];
  }

  function plant(...folders: string[]): string {
    const folder = join(work, ...folders);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(join(folder, 'libdnnl.so.2'), '');
    return folder;
  }

  it('never looks in the working directory or its parents', () => {
    plant('.cache', 'onednn', 'lib');
    plant('sub', '.cache', 'onednn', 'lib');
    plant('sub', 'flamingo-ts', 'onednn', 'lib');
    plant('sub', '.cache', 'flamingo-ts', 'onednn', 'lib');
    // The last two would name the working directory.
    for (const XDG_CACHE_HOME of [join(work, 'empty'), '.', '.cache']) {
      const found = candidates({ HOME: join(work, 'home'), XDG_CACHE_HOME }, join(work, 'sub'));
      expect(found.length).toBeGreaterThan(0);
      for (const { path } of found) expect(path).toMatch(/^libdnnl\.so(\.[23])?$|^\/usr\//);
    }
  });

  it("takes the user's cache before the system's libraries", () => {
    const home = plant('home', '.cache', 'flamingo-ts', 'onednn', 'lib');
    const named = plant('named', 'flamingo-ts', 'onednn', 'lib');
    const HOME = join(work, 'home');
    expect(candidates({ HOME, XDG_CACHE_HOME: '' })[0]).toEqual({ path: join(home, 'libdnnl.so.2') });
    expect(candidates({ HOME, XDG_CACHE_HOME: join(work, 'named') })[0]).toEqual({ path: join(named, 'libdnnl.so.2') });
  });

  it.each(['770', '707', '777'])('refuses a cache that others can write to, mode %s', (mode) => {
    const folder = plant('flamingo-ts', 'onednn', 'lib');
    chmodSync(folder, parseInt(mode, 8));
    const refused = `refused: other users can write to ${folder}, run chmod go-w on it`;
    expect(candidates({ XDG_CACHE_HOME: work })[0]).toEqual({ path: join(folder, 'libdnnl.so.2'), refused });
  });

  it.runIf(process.getuid?.() === 0)('refuses a cache of another user', () => {
    const folder = plant('flamingo-ts', 'onednn', 'lib');
    chownSync(folder, 12345, 12345);
    const refused = `refused: ${folder} belongs to another user`;
    expect(candidates({ XDG_CACHE_HOME: work })[0]).toEqual({ path: join(folder, 'libdnnl.so.2'), refused });
  });
});

it.runIf(process.platform === 'linux')('signals during products do not damage memory, and reach their handlers', () => {
  // Without protection the heap is damaged within a few dozen products.
  const heard = run(`
    import { spawn } from 'node:child_process';
    import * as tf from '@tensorflow/tfjs-core';
    import { registerNativeBackend } from '@flamingo-ts/backend-native';
    registerNativeBackend();
    await tf.setBackend('native');
    const backend = tf.backend();
    const [m, n] = [1280, 192];
    const [x, y, z] = [m * n, n * n, m * n].map((size) => backend.pool.allocate(size).fill(1));
    const [a, b, c] = [x, y, z].map((values) => backend.pool.address(values));
    let heard = 0;
    process.on('SIGWINCH', () => heard++);
    const sender = spawn('sh', ['-c', 'while kill -WINCH $PPID; do :; done']);
    while (heard < 3000) {
      for (let i = 0; i < 50; i++) backend.dnn.sgemm(false, true, m, n, n, a, n, b, n, 0, c, n);
      await new Promise((resolve) => setImmediate(resolve));
    }
    sender.kill();
    await new Promise((resolve) => sender.on('exit', resolve));
    console.log(z.every((value) => value === n) ? 'right' : 'wrong');`);
  expect(heard).toBe('right\n');
});
