import { defineConfig } from 'vitest/config';

const ENV = {
  // Test files run in parallel, each with an OpenMP thread for every core. If waiting threads spun, they would take the
  // cores from one another, and training tests would take ten times as long.
  OMP_WAIT_POLICY: 'passive',
  // Verify names all backends; by default one is enough.
  FLAMINGO_TEST_BACKENDS: process.env['FLAMINGO_TEST_BACKENDS'] ?? 'fastest',
};

/** One test run for the whole workspace. Packages resolve to their sources by the condition below. */
export default defineConfig({
  resolve: { conditions: ['@flamingo-ts/source'] },
  ssr: { resolve: { conditions: ['@flamingo-ts/source'] } },
  test: {
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    env: ENV,
    projects: [
      // Tests next to the sources: seconds for each file. `npm test` runs these.
      { extends: true, test: { name: 'unit', include: ['{packages,apps}/*/src/**/*.test.ts'] } },
      // Tests that start the real command, servers, or every example of the documentation.
      {
        extends: true,
        test: {
          name: 'end-to-end',
          include: ['{packages,apps}/*/test/**/*.test.ts', '{scripts,benchmarks,examples}/**/*.test.ts'],
        },
      },
    ],
  },
});
