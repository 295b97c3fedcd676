/** The sides of a comparison as programs to start: ours and the peers. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseRun, type Run } from './pairs';

const here = dirname(fileURLToPath(import.meta.url));
/** The built command, as published. */
const flamingo = resolve(here, '../../apps/trainer/dist/cli.js');

export const PRECISIONS = { fp32: 'float32', bf16: 'bfloat16' } as const;
export type Precision = keyof typeof PRECISIONS;

export interface RunConfig {
  readonly specs: string;
  readonly seconds: number;
  readonly threads: number;
  /** For PyTorch: the Python interpreter, and the folder that contains open_flamingo/. */
  readonly python: string;
  readonly ref: string | undefined;
}

/** Times one workload in a separate process, so that its peak memory is that of the workload. */
export interface Side {
  readonly precisions: readonly Precision[];
  run(workload: string, precision: Precision, runConfig: RunConfig): Run;
}

export const ours: Side = {
  precisions: ['fp32', 'bf16'],
  run(workload, precision, { specs, seconds, threads }) {
    const args = ['--precision', precision, '--seconds', String(seconds), '--threads', String(threads)];
    return start(workload, process.execPath, [flamingo, 'bench', workload, '--specs', specs, '--json', ...args]);
  },
};

/** PyTorch in eager mode, or with its compiler and fused attention. */
const pytorch = (compiled: boolean): Side => ({
  precisions: ['fp32', 'bf16'],
  run(workload, precision, { specs, seconds, threads, python, ref }) {
    const args = ['--specs', specs, '--dtype', PRECISIONS[precision], '--seconds', String(seconds)];
    const run = start(workload, python, [
      join(here, 'torch_peer.py'),
      ...args,
      ...(compiled ? ['--compiled'] : []),
      ...['--threads', String(threads)],
      ...(ref === undefined ? [] : ['--ref', ref]),
      workload,
    ]);
    return compiled ? { ...run, peer: `${run.peer}, compiled` } : run;
  },
});

/** The same models and workloads on TensorFlow's kernels. */
const tfjsNode: Side = {
  precisions: ['fp32'],
  run(workload, precision, { specs, seconds, threads }) {
    const args = ['--specs', specs, '--precision', precision, '--seconds', String(seconds), '--backend', 'tensorflow'];
    const env = { TF_NUM_INTRAOP_THREADS: String(threads), TF_CPP_MIN_LOG_LEVEL: '2' };
    const run = start(workload, process.execPath, [flamingo, 'bench', workload, '--json', ...args], env);
    const file = createRequire(import.meta.url).resolve('@tensorflow/tfjs-node-gpu/package.json');
    const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
    // The command reports the number of cores, but the environment sets the number of TensorFlow's threads.
    return { peer: `tfjs-node-${version}`, ...run, threads };
  },
};

export const PEERS: Readonly<Record<string, Side>> = {
  pytorch: pytorch(false),
  'pytorch-compiled': pytorch(true),
  'tfjs-node': tfjsNode,
};

/** Number of last lines to show of the output of a failed program. */
const SHOWN = 5;

function start(workload: string, command: string, args: readonly string[], env: Record<string, string> = {}): Run {
  const { error, status, signal, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  if (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const fix =
      'Pass a Python that has PyTorch, timm and einops with --python FILE or FLAMINGO_PEER_PYTHON. To create one: ' +
      'python3 -m venv DIR && DIR/bin/pip install torch timm einops, then --python DIR/bin/python';
    throw new Error(code === 'ENOENT' ? `${command} was not found. ${fix}.` : error.message);
  }
  // The bench command reports a signal as status 128 plus its number. Linux sends signal 9 if memory runs out.
  if (signal === 'SIGKILL' || status === 137)
    throw new Error('the process was killed, probably because memory ran out.');
  if (status !== 0) {
    const output = stderr.trim().split('\n').slice(-SHOWN).join('\n');
    throw new Error(output || `the process ended with ${signal ?? `status ${status}`} and no output.`);
  }
  return parseRun(stdout, workload);
}
