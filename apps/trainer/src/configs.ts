import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Root of this package, both from its sources and from what is built of them. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The configurations that come with the trainer. */
export const CONFIGS = join(ROOT, 'configs');

/** The workloads that come with the trainer. */
export const BENCH_SPECS = join(CONFIGS, 'bench.json');

export const PACKAGE = join(ROOT, 'package.json');
