import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';

/** What a script prints in a process of its own. */
function run(script: string, env: Record<string, string> = {}): string {
  const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '-e', script];
  return execFileSync(process.execPath, args, {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    cwd: import.meta.dirname,
  });
}

it('a missing library gives an error that says where it was looked for and how to bring it', () => {
  const script = `
    import { registerNativeBackend } from '@flamingo-ts/backend-native';
    try { registerNativeBackend(); } catch (error) { console.log(error.message); }`;
  const message = run(script, { FLAMINGO_ONEDNN: '/nowhere/libdnnl.so.9' });
  expect(message).toMatch(/oneDNN was not found\. Looked at: \/nowhere\/libdnnl\.so\.9 \(not there\)/);
  expect(message).toContain('npm run setup:onednn');
});

it.runIf(process.platform === 'linux')('signals do no harm, and are heard', () => {
  // Without protection the heap is damaged within some dozen products.
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
