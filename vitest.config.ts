import { defineConfig } from 'vitest/config';

/** One test run for the whole workspace. Packages resolve to their sources by the condition below. */
export default defineConfig({
  resolve: { conditions: ['@flamingo-ts/source'] },
  ssr: { resolve: { conditions: ['@flamingo-ts/source'] } },
  test: {
    include: ['packages/*/{src,test}/**/*.test.ts', 'apps/*/{src,test}/**/*.test.ts', 'tools/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Test files run side by side, each with OpenMP threads for every core. Threads that spin while they wait would
    // take the cores from one another: training tests take ten times as long.
    env: { OMP_WAIT_POLICY: 'passive' },
  },
});
