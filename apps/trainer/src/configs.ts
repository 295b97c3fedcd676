import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Root of this package. The path is the same from `src` and from `dist`. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Folder of the configurations that the package contains. */
export const CONFIGS = join(ROOT, 'configs');

/** The default workloads of `flamingo bench`. */
export const BENCH_SPECS = join(CONFIGS, 'bench.json');

export const PACKAGE = join(ROOT, 'package.json');
