import { expect, it } from 'vitest';
import { formatPlan } from './data-commands';

it('data plan computes totals from the cost per page', () => {
  const perPage = { documents: 0.5, images: 2, cpuSeconds: 0.036, textBytes: 2000, imageBytes: 50_000 };
  const estimate = {
    units: 100,
    sampledUnits: 10,
    pages: 100_000,
    sampledPages: 1000,
    perPage,
    dropped: { b: 1, a: 3 },
  };
  const lines = formatPlan(estimate, 4).split('\n');
  expect(lines).toContain('A page takes 36.0 ms of one core (28 pages/s) and yields 0.500 documents with 2.00 images.');
  // 3600 core seconds, and 86.6 million pages.
  expect(lines).toContain('  1.00 core hours: 15.0 minutes on the 4 cores of this machine');
  expect(lines).toContain('  200 MB of text and 5.00 GB of images');
  expect(lines).toContain('  866 core hours: 9.0 days on the 4 cores of this machine');
  expect(lines).toContain('  173 GB of text and 4.33 TB of images');
  expect(lines.slice(-2)).toEqual(['       3  a', '       1  b']);
  expect(formatPlan({ ...estimate, perPage: { ...perPage, documents: 0 } }, 4)).toContain('No page of the sample');
});
