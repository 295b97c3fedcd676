import * as tf from '@tensorflow/tfjs-core';
import { useBackend, type BackendName } from '@flamingo-ts/kernels';
import { beforeAll, describe } from 'vitest';

/**
 * Runs a suite once on every backend present, as `name > cpu > ...`. `FLAMINGO_TEST_BACKENDS=cpu,wasm,native,tensorflow`
 * names the backends that must run; without it cpu and wasm do, and native and tensorflow where they start.
 *
 * Make tensors inside the tests or in `beforeAll`, not in the body: there the backend is not chosen yet.
 */
export function describeBackends(name: string, body: (backend: BackendName) => void): void {
  describe(name, async () => {
    for (const backend of await presentBackends()) {
      describe(backend, () => {
        beforeAll(async () => {
          await useBackend(backend);
        });
        body(backend);
      });
    }
  });
}

/** Fails when `f` leaves more tensors behind than it found. Tensors that it returns are disposed of and do not count. */
export async function expectNoLeak(
  f: () => tf.TensorContainer | void | Promise<tf.TensorContainer | void>,
): Promise<void> {
  const run = async () => tf.dispose((await f()) as tf.TensorContainer);
  // What is made once and kept on purpose, a cached table for example, is made by the first run.
  await run();
  const before = tf.memory().numTensors;
  await run();
  const leaked = tf.memory().numTensors - before;
  if (leaked !== 0) throw new Error(`expectNoLeak: ${leaked} tensors are left behind. Wrap the work in tf.tidy.`);
}

let present: Promise<BackendName[]> | undefined;

function presentBackends(): Promise<BackendName[]> {
  return (present ??= findBackends());
}

async function findBackends(): Promise<BackendName[]> {
  const asked = process.env['FLAMINGO_TEST_BACKENDS'];
  if (asked) return asked.split(',').map((name) => name.trim() as BackendName);
  const found: BackendName[] = ['cpu', 'wasm'];
  for (const name of ['native', 'tensorflow'] as const) {
    const starts = await useBackend(name).then(
      () => true,
      () => false,
    );
    if (starts) found.push(name);
  }
  return found;
}
