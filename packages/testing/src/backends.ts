import * as tf from '@tensorflow/tfjs-core';
import { useBackend, type BackendName } from '@flamingo-ts/kernels';
import { beforeAll, describe } from 'vitest';

/**
 * Runs a suite once on each backend, as `name > cpu > ...`. The environment variable `FLAMINGO_TEST_BACKENDS` names the
 * backends, such as `cpu,wasm,native,tensorflow`, and each of them must start. The default, `fastest`, is the one that
 * `auto` chooses, or `native` if CI is set.
 *
 * Create tensors inside the tests or in `beforeAll`, not in the body: no backend is chosen there yet.
 */
export function describeBackends(name: string, body: (backend: BackendName) => void): void {
  describe(name, async () => {
    for (const backend of await backendNames()) {
      describe(backend, () => {
        beforeAll(async () => {
          await useBackend(backend);
        });
        body(backend);
      });
    }
  });
}

/** Fails if `f` leaks tensors. Tensors that it returns are disposed and do not count. */
export async function expectNoLeak(
  f: () => tf.TensorContainer | void | Promise<tf.TensorContainer | void>,
): Promise<void> {
  const run = async () => tf.dispose((await f()) as tf.TensorContainer);
  // The first run creates what is kept on purpose, such as a cached table.
  await run();
  const before = tf.memory().numTensors;
  await run();
  const leaked = tf.memory().numTensors - before;
  if (leaked !== 0) throw new Error(`expectNoLeak: ${leaked} tensors leaked. Wrap the work in tf.tidy.`);
}

/**
 * Whether the backend `native` starts on this machine, for tests that need it.
 *
 * @throws Error if it does not and CI is set: continuous integration must not skip these tests
 */
export async function startsNative(): Promise<boolean> {
  try {
    await useBackend('native');
    return true;
  } catch (error) {
    if (process.env['CI']) throw error;
    return false;
  }
}

let names: Promise<BackendName[]> | undefined;

function backendNames(): Promise<BackendName[]> {
  return (names ??= readBackendNames());
}

async function readBackendNames(): Promise<BackendName[]> {
  const requested = process.env['FLAMINGO_TEST_BACKENDS'] ?? 'fastest';
  if (requested === 'fastest') return [process.env['CI'] ? 'native' : (await useBackend('auto')).name];
  return requested.split(',').map((name) => name.trim() as BackendName);
}
