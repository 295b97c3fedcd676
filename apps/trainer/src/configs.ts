import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The configurations that come with the trainer: beside the sources, and beside what is built of them. */
export const CONFIGS = join(dirname(fileURLToPath(import.meta.url)), '..', 'configs');

/** The workloads that come with the trainer. */
export const BENCH_SPECS = join(CONFIGS, 'bench.json');
