import { spawnSync } from 'node:child_process';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { useBackend } from './backend';

const all = ['native', 'tensorflow', 'webgpu', 'wasm', 'cpu'];

describe('useBackend', () => {
  it.each(['cpu', 'wasm'] as const)('switches to %s when requested by name, and it computes', async (name) => {
    const choice = await useBackend(name);
    expect(choice).toMatchObject({ name, rejected: [] });
    expect(choice.reason).toMatch(/^requested by name/);
    expect(tf.getBackend()).toBe(name);
    expect(tf.matMul(tf.ones([2, 3]), tf.ones([3, 2])).arraySync()).toEqual([
      [3, 3],
      [3, 3],
    ]);
  });

  it('auto chooses one backend and says why it did not choose the others', async () => {
    const choice = await useBackend('auto');
    expect(tf.getBackend()).toBe(choice.name);
    expect([choice.name, ...choice.rejected.map(({ name }) => name)].sort()).toEqual([...all].sort());
    for (const { why } of choice.rejected) expect(why).not.toBe('');
    expect(choice.rejected.find(({ name }) => name === 'cpu')!.why).toBe(`slower than ${choice.name}, not tried`);
    expect(choice.summary).toMatch(new RegExp(`^backend ${choice.name} \\(the fastest that works here; `));
    expect(choice.summary).not.toContain('not tried');
    expect(choice.summary).not.toContain('\n');
  });

  it.each(['cpu', 'wasm'] as const)("suppresses tfjs' advertisements on %s", (name) => {
    const script = `
      import { useBackend } from '@flamingo-ts/kernels';
      import * as tf from '@tensorflow/tfjs-core';
      import '@tensorflow/tfjs-backend-cpu';
      await useBackend('${name}');
      tf.tensor1d([1]);
      await tf.setBackend('cpu');
      tf.tensor1d([1]);
      console.log(tf.env().getBool('IS_NODE'));`;
    const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '-e', script];
    const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', cwd: import.meta.dirname });
    expect({ stdout, stderr }).toEqual({ stdout: 'true\n', stderr: '' });
  });

  it('switches between backends when called again', async () => {
    await useBackend('wasm');
    await useBackend('cpu');
    expect(tf.getBackend()).toBe('cpu');
  });

  it('says why a backend is not available and how to install it', async () => {
    await expect(useBackend('webgpu')).rejects.toThrow(
      /backend 'webgpu' cannot be used: there is no navigator\.gpu .* To fix this: .*npm install @tensorflow\/tfjs-backend-webgpu/,
    );
  });

  it('rejects an unknown name', async () => {
    await expect(useBackend('cuda' as never)).rejects.toThrow(/unknown backend 'cuda', expected one of auto, native/);
  });
});
