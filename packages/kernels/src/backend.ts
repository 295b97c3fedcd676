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
  /** With 'auto': every other backend and why it was not taken. Empty when a backend was asked for by name. */
  readonly rejected: readonly RejectedBackend[];
  /** All of the above on one line, for logs. */
  readonly summary: string;
}

interface Candidate {
  /** What the backend is, as the reason for choosing it. */
  readonly is: string;
  /** Why this platform cannot have it at all, if so; cheaper than trying. */
  readonly unfit?: () => string | undefined;
  /** Imports the package, which registers the backend with tfjs. */
  readonly load: () => Promise<unknown>;
  readonly fix: string;
}

const candidates: Record<BackendName, Candidate> = {
  native: {
    is: 'oneDNN on the processor, called from Node',
    unfit: needsNode,
    load: async () => {
      const { registerNativeBackend } = (await importHidden('@flamingo-ts/backend-native')) as {
        registerNativeBackend: () => void | Promise<void>;
      };
      await registerNativeBackend();
    },
    fix:
      'npm install @flamingo-ts/backend-native and bring oneDNN: from your system (Debian, Ubuntu: apt-get install ' +
      'libdnnl2), or in a clone of this repository without root: npm run setup:onednn',
  },
  tensorflow: {
    is: "TensorFlow's C library through @tensorflow/tfjs-node-gpu",
    unfit: needsNode,
    load: () => {
      restoreRemovedUtils();
      return importHidden('@tensorflow/tfjs-node-gpu');
    },
    fix:
      'npm install @tensorflow/tfjs-node-gpu@4.22.0 and build its addon: npm rebuild @tensorflow/tfjs-node-gpu, or in ' +
      'a clone of this repository against the TensorFlow that you have: npm run setup:tensorflow',
  },
  webgpu: {
    is: 'the graphics card through WebGPU',
    unfit: () =>
      (globalThis as { navigator?: { gpu?: unknown } }).navigator?.gpu
        ? undefined
        : 'there is no navigator.gpu on this platform',
    load: () => import('@tensorflow/tfjs-backend-webgpu').catch(sayNotInstalled('@tensorflow/tfjs-backend-webgpu')),
    fix: 'use a browser that has WebGPU and npm install @tensorflow/tfjs-backend-webgpu@4.22.0',
  },
  wasm: {
    is: 'WebAssembly with SIMD',
    load: () => import('@tensorflow/tfjs-backend-wasm').catch(sayNotInstalled('@tensorflow/tfjs-backend-wasm')),
    fix:
      'npm install @tensorflow/tfjs-backend-wasm@4.22.0; in a browser, serve its .wasm files and say where with ' +
      'setWasmPaths before this call',
  },
  cpu: {
    is: 'plain JavaScript, complete but slow',
    load: () => import('@tensorflow/tfjs-backend-cpu').catch(sayNotInstalled('@tensorflow/tfjs-backend-cpu')),
    fix: 'npm install @tensorflow/tfjs-backend-cpu@4.22.0',
  },
};

/** Fastest first. With an NVIDIA card under Node, TensorFlow can use it and so goes before the processor. */
function bySpeed(): BackendName[] {
  return hasNvidia()
    ? ['tensorflow', 'native', 'webgpu', 'wasm', 'cpu']
    : ['native', 'tensorflow', 'webgpu', 'wasm', 'cpu'];
}

/**
 * Loads a tfjs backend, makes it the current one and says what was chosen and why. The packages of the backends are
 * optional peers: install the ones you want to run on.
 *
 * - 'auto' takes the fastest that starts, and reports for every other why it was not taken;
 * - a name takes that backend or throws an error that says why it cannot be had and how to get it.
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
    return choice(name, `asked for by name; ${candidates[name].is}`, []);
  }

  const rejected: RejectedBackend[] = [];
  for (const [i, candidate] of order.entries()) {
    const why = await start(candidate);
    if (why === undefined) {
      const slower = order.slice(i + 1).map((name) => ({
        name,
        why: candidates[name].unfit?.() ?? `slower than ${candidate}, not tried`,
      }));
      return choice(candidate, `the fastest that works here; ${candidates[candidate].is}`, [...rejected, ...slower]);
    }
    rejected.push({ name: candidate, why });
  }
  const list = rejected.map(({ name, why }) => `\n  ${name}: ${why}. To fix this: ${candidates[name].fix}.`);
  throw new Error(`useBackend: no backend can be used.${list.join('')}`);
}

/** Makes a backend the current one; returns why that could not be done. */
async function start(name: BackendName): Promise<string | undefined> {
  const { unfit, load } = candidates[name];
  const misfit = unfit?.();
  if (misfit !== undefined) return misfit;
  try {
    // The application may have registered it already, with settings of its own.
    if (tf.findBackendFactory(name) === null) await load();
    silenceCpuBanner();
    if (!(await tf.setBackend(name))) return 'tfjs could not initialise it, its warning is printed above';
    await tf.ready();
    return undefined;
  } catch (error) {
    return firstSentence(error);
  }
}

/**
 * tfjs' CPU backend, which other backends load too, greets Node at its first write and advises another package. This makes
 * that first write without the flag that it asks.
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

function choice(name: BackendName, reason: string, rejected: readonly RejectedBackend[]): BackendChoice {
  const others = rejected.map(({ name, why }) => `not ${name}: ${why}`);
  return { name, reason, rejected, summary: `backend ${[`${name} (${reason})`, ...others].join('; ')}` };
}

/** Import by a name that bundlers for the browser do not follow: these packages are for Node only. */
function importHidden(name: string): Promise<unknown> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ name).catch(sayNotInstalled(name));
}

/**
 * Puts a missing optional peer into plain words. Bundlers also take an import that is caught as one that may be missing.
 */
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

function needsNode(): string | undefined {
  return isNode() ? undefined : 'it needs Node';
}

function hasNvidia(): boolean {
  return isNode() && process.platform === 'linux' && process.getBuiltinModule('node:fs').existsSync('/dev/nvidia0');
}

/** tfjs-node-gpu calls two functions of node:util that Node 23 removed; it shares the object changed here. */
function restoreRemovedUtils(): void {
  const util = process.getBuiltinModule('node:util') as unknown as Record<string, unknown>;
  util['isNullOrUndefined'] ??= (x: unknown) => x === null || x === undefined;
  util['isArray'] ??= Array.isArray;
}

/** Errors of module loading run over many lines, with stacks of requires; the first sentence says what is wrong. */
function firstSentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String((error as { message?: unknown })?.message ?? error);
  return message.split('\n', 1)[0]!.trim().replace(/\.$/, '');
}
