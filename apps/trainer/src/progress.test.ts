import { afterEach, expect, it, vi } from 'vitest';
import { startProgress } from './progress';

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

it('writes plain lines with rate and time left where there is no terminal', () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  const lines: string[] = [];
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
  const progress = startProgress('train', 100, 'steps');
  vi.advanceTimersByTime(1000);
  progress.update(10, 'loss 2');
  vi.advanceTimersByTime(1000);
  progress.update(20);
  vi.advanceTimersByTime(10_000);
  progress.update(60, 'loss 1');
  progress.stop('done');
  expect(lines).toEqual([
    'train: 10/100 steps, 10.0 steps/s, 9 s left loss 2\n',
    'train: 60/100 steps, 5.0 steps/s, 8 s left loss 1\n',
    'train: done (12.0 s)\n',
  ]);
});
