import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { startProgress } from './progress';

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** Records what is written to stderr, with a fake clock. */
function record(): string[] {
  vi.useFakeTimers({ toFake: ['Date'] });
  const lines: string[] = [];
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
  return lines;
}

it('writes plain lines with rate and time left without a terminal', () => {
  const lines = record();
  const progress = startProgress('train', 100, 'steps');
  vi.advanceTimersByTime(400);
  progress.update(3, 'too early for a rate');
  vi.advanceTimersByTime(600);
  progress.update(10, 'loss 2');
  vi.advanceTimersByTime(1000);
  progress.update(20);
  vi.advanceTimersByTime(10_000);
  progress.update(60, 'loss 1');
  progress.stop('done');
  expect(lines).toEqual([
    'train: 10/100 steps, 10.0 steps/s, 9 s left, loss 2\n',
    'train: 60/100 steps, 5.0 steps/s, 8 s left, loss 1\n',
    'train: done (12.0 s)\n',
  ]);
});

it('counts units of an earlier run, but not toward the rate', () => {
  const lines = record();
  const progress = startProgress('train', 100, 'steps', 80);
  vi.advanceTimersByTime(2000);
  progress.update(84);
  progress.stop();
  expect(lines).toEqual(['train: 84/100 steps, 2.0 steps/s, 8 s left\n']);
});

describe('on a terminal', () => {
  const { isTTY } = process.stderr;
  beforeEach(() => (process.stderr.isTTY = true));
  afterEach(() => (process.stderr.isTTY = isTTY));

  it('draws a bar with rate and time left, and ends it with a line', () => {
    const lines = record();
    const progress = startProgress('data', 800, 'images');
    vi.advanceTimersByTime(2000);
    progress.update(400, 'half');
    progress.stop('800 images drawn');
    progress.stop();
    const shown = lines.join('');
    expect(shown).toMatch(/data \S+ 400\/800 images \| 200 images\/s \| \S+ left, half/);
    expect(shown.endsWith('data: 800 images drawn\n')).toBe(true);
  });
});
