import * as tf from '@tensorflow/tfjs-core';

export type BackendName = 'native' | 'tensorflow' | 'webgpu' | 'wasm' | 'cpu';

export interface RejectedBackend {
  readonly name: BackendName;
  readonly why: string;
}

export interface BackendChoice {
  /** The backend that tfjs now runs on. */
  readonly name: BackendName;
  readonly reason: string;
  /** With 'auto': every other backend and why it was not chosen. Empty when a backend was requested by name. */
  readonly rejected: readonly RejectedBackend[];
  /** One line for logs: the backend, the reason, and why faster backends were rejected. */
  readonly summary: string;
}

interface Candidate {
  /** What the backend is, for the reason in `BackendChoice`. */
  readonly description: string;
  /** Returns why this platform can never run it, or undefined; cheaper than trying. */
  readonly findObstacle?: () => string | undefined;
  /** Imports the package and registers the backend with tfjs. */
  readonly load: () => Promise<unknown>;
  readonly fix: string;
}

const candidates: Record<BackendName, Candidate> = {
  native: {
    description: 'oneDNN on the CPU, called from Node',
    findObstacle: requireNode,
    load: async () => {
      const { registerNativeBackend } = (await importHidden('@flamingo-ts/backend-native')) as {
        registerNativeBackend: () => void | Promise<void>;
      };
      await registerNativeBackend();
    },
    fix:
      'npm install @flamingo-ts/backend-native, and install oneDNN with your package manager (Debian, Ubuntu: apt-get ' +
      'install libdnnl2) or, without root, in a clone of this repository: npm run setup:onednn',
  },
  tensorflow: {
    description: "TensorFlow's C library through @tensorflow/tfjs-node-gpu",
    findObstacle: requireNode,
    load: () => {
      restoreRemovedUtils();
      return importHidden('@tensorflow/tfjs-node-gpu');
    },
    fix:
      'npm install @tensorflow/tfjs-node-gpu@4.22.0 and build its addon: npm rebuild @tensorflow/tfjs-node-gpu, or in ' +
      'a clone of this repository, against your installed TensorFlow: npm run setup:tensorflow',
  },
  webgpu: {
    description: 'the GPU through WebGPU',
    findObstacle: () =>
      (globalThis as { navigator?: { gpu?: unknown } }).navigator?.gpu
        ? undefined
        : 'there is no navigator.gpu on this platform',
    load: () => import('@tensorflow/tfjs-backend-webgpu').catch(sayNotInstalled('@tensorflow/tfjs-backend-webgpu')),
    fix: 'use a browser that has WebGPU and npm install @tensorflow/tfjs-backend-webgpu@4.22.0',
  },
  wasm: {
    description: 'WebAssembly with SIMD',
    load: () => import('@tensorflow/tfjs-backend-wasm').catch(sayNotInstalled('@tensorflow/tfjs-backend-wasm')),
    fix:
      'npm install @tensorflow/tfjs-backend-wasm@4.22.0; in a browser, serve its .wasm files and first call ' +
      'setWasmPaths with their location',
  },
  cpu: {
    description: 'plain JavaScript, complete but slow',
    load: () => import('@tensorflow/tfjs-backend-cpu').catch(sayNotInstalled('@tensorflow/tfjs-backend-cpu')),
    fix: 'npm install @tensorflow/tfjs-backend-cpu@4.22.0',
  },
};

/** Fastest first. TensorFlow can use an NVIDIA GPU, so with one it comes before the CPU backends. */
function bySpeed(): BackendName[] {
  return hasNvidia()
    ? ['tensorflow', 'native', 'webgpu', 'wasm', 'cpu']
    : ['native', 'tensorflow', 'webgpu', 'wasm', 'cpu'];
}

/**
 * Loads a tfjs backend, makes it current, and reports what was chosen and why. The backend packages are optional peers:
 * install the ones you want to use.
 *
 * - 'auto' chooses the fastest backend that starts, and reports why it did not choose each of the others.
 * - A name chooses that backend, or throws an error that says why it is not available and how to install it.
 *
 * @example
 * const backend = await useBackend('auto');
 * console.log(backend.summary);
 */
export async function useBackend(name: BackendName | 'auto' = 'auto'): Promise<BackendChoice> {
  const order = bySpeed();
  if (name !== 'auto') {
    if (!order.includes(name)) {
      throw new Error(`useBackend: unknown backend '${String(name)}', expected one of auto, ${order.join(', ')}.`);
    }
    const why = await start(name);
    if (why !== undefined) {
      throw new Error(`useBackend: backend '${name}' cannot be used: ${why}. To fix this: ${candidates[name].fix}.`);
    }
    return choice(name, `requested by name; ${candidates[name].description}`);
  }

  const rejected: RejectedBackend[] = [];
  for (const [i, candidate] of order.entries()) {
    const why = await start(candidate);
    if (why === undefined) {
      const slower = order.slice(i + 1).map((name) => ({
        name,
        why: candidates[name].findObstacle?.() ?? `slower than ${candidate}, not tried`,
      }));
      return choice(candidate, `the fastest that works here; ${candidates[candidate].description}`, rejected, slower);
    }
    rejected.push({ name: candidate, why });
  }
  const list = rejected.map(({ name, why }) => `\n  ${name}: ${why}. To fix this: ${candidates[name].fix}.`);
  throw new Error(`useBackend: no backend can be used.${list.join('')}`);
}

/** Makes a backend current; returns why that failed, or undefined. */
async function start(name: BackendName): Promise<string | undefined> {
  const { findObstacle, load } = candidates[name];
  const obstacle = findObstacle?.();
  if (obstacle !== undefined) return obstacle;
  try {
    // The application may already have registered it with its own options.
    if (tf.findBackendFactory(name) === null) await load();
    silenceCpuBanner();
    if (!(await tf.setBackend(name))) return 'tfjs could not initialize it (see its warning above)';
    await tf.ready();
    return undefined;
  } catch (error) {
    return firstLine(error);
  }
}

/**
 * tfjs' CPU backend, which other backends also load, prints an advertisement under Node at its first write. This makes the
 * first write with the flag IS_NODE off, so that it prints nothing.
 */
function silenceCpuBanner(): void {
  if (!isNode() || tf.findBackendFactory('cpu') === null) return;
  const flags = tf.env();
  const isNodeFlag = flags.getBool('IS_NODE');
  const cpu = tf.findBackend('cpu');
  try {
    flags.set('IS_NODE', false);
    cpu.disposeData(cpu.write(new Float32Array(1), [1], 'float32'));
  } finally {
    flags.set('IS_NODE', isNodeFlag);
  }
}

function choice(
  name: BackendName,
  reason: string,
  faster: readonly RejectedBackend[] = [],
  slower: readonly RejectedBackend[] = [],
): BackendChoice {
  const failures = faster.map(({ name, why }) => `not ${name}: ${why}`);
  const summary = `backend ${[`${name} (${reason})`, ...failures].join('; ')}`;
  return { name, reason, rejected: [...faster, ...slower], summary };
}

/** Imports a package for Node only, in a form that browser bundlers do not follow. */
function importHidden(name: string): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ name).catch(sayNotInstalled(name));
}

/** Explains that an optional peer is missing. Catching the import also tells bundlers that it may be absent. */
function sayNotInstalled(name: string): (error: unknown) => never {
  return (error) => {
    const { code, message } = error as { code?: unknown; message?: unknown };
    const missing = code === 'ERR_MODULE_NOT_FOUND' && String(message).includes(`'${name}'`);
    throw missing ? new Error(`${name} is not installed`, { cause: error }) : error;
  };
}

function isNode(): boolean {
  return typeof process === 'object' && typeof process.versions?.node === 'string';
}

function requireNode(): string | undefined {
  return isNode() ? undefined : 'it requires Node';
}

function hasNvidia(): boolean {
  return isNode() && process.platform === 'linux' && process.getBuiltinModule('node:fs').existsSync('/dev/nvidia0');
}

/** tfjs-node-gpu calls two functions that Node 23 removed from node:util. It uses the same object, so add them there. */
function restoreRemovedUtils(): void {
  const util = process.getBuiltinModule('node:util') as unknown as Record<string, unknown>;
  util['isNullOrUndefined'] ??= (x: unknown) => x === null || x === undefined;
  util['isArray'] ??= Array.isArray;
}

/** Module loading errors have many lines, with require stacks; the first line says what is wrong. */
function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String((error as { message?: unknown })?.message ?? error);
  return message.split('\n', 1)[0]!.trim().replace(/\.$/, '');
}
