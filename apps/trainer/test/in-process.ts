import { vi } from 'vitest';
import { main } from '../src/flamingo';

/** Runs a command line in this process. Returns its exit status and the output of both streams. */
export async function command(...args: string[]): Promise<{ status: number; text: string }> {
  let text = '';
  for (const stream of [process.stdout, process.stderr]) {
    vi.spyOn(stream, 'write').mockImplementation((chunk) => {
      text += String(chunk);
      return true;
    });
  }
  const status = await main(['node', 'flamingo', ...args]);
  vi.restoreAllMocks();
  return { status, text };
}
