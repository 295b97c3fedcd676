import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { writeError } from './files';

/** The file in a stage's folder that names the process that writes to it. */
export const LOCK_FILE = 'run.lock';
/** Milliseconds to wait for the content of an empty lock, which was just created or whose process was killed. */
const EMPTY_LOCK_WAIT = 1000;

interface Holder {
  readonly pid: number;
  readonly host: string;
  /** Start time of the process in system ticks, to distinguish it from a later one with the same id. Linux only. */
  readonly began?: string;
}

const held = new Set<string>();

/**
 * Runs something while no other process may write to a folder. The lock of a process that has ended is taken over.
 *
 * @param name named in errors
 * @throws Error naming the process and host that hold the lock
 */
export async function withLock<T>(name: string, folder: string, run: () => Promise<T>): Promise<T> {
  const file = join(folder, LOCK_FILE);
  take(name, file);
  held.add(file);
  try {
    return await run();
  } finally {
    held.delete(file);
    rmSync(file, { force: true });
  }
}

function take(name: string, file: string): void {
  const self: Holder = { pid: process.pid, host: hostname(), ...beganAt(process.pid) };
  for (;;) {
    try {
      writeFileSync(file, JSON.stringify(self), { flag: 'wx' });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw writeError(error, file, `${name} did not start.`);
    }
    const text = read(file);
    if (text === undefined) continue;
    const holder = parse(text);
    if (holder) refuse(name, file, holder, self);
    // Another process may take over the same lock now: only the one that renames it may remove it.
    const stale = `${file}.${process.pid}`;
    try {
      renameSync(file, stale);
    } catch {
      continue;
    }
    if (read(stale) !== text) renameSync(stale, file);
    else rmSync(stale);
  }
}

/** @throws Error unless the holder has ended */
function refuse(name: string, file: string, holder: Holder, self: Holder): void {
  if (holder.host !== self.host) {
    throw new Error(
      `${name}: process ${holder.pid} on host ${holder.host} writes to this folder, see ${file}. ` +
        `This host, ${self.host}, cannot check whether it still runs. If it has ended, remove that file.`,
    );
  }
  const runs = holder.pid === self.pid ? held.has(file) : isRunning(holder);
  if (!runs) return;
  throw new Error(
    `${name}: process ${holder.pid} on this host already writes to this folder, see ${file}. ` +
      'Wait until it ends, stop it, or choose another out folder.',
  );
}

function isRunning({ pid, began }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it runs, but belongs to another user.
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const now = beganAt(pid).began;
  return began === undefined || now === undefined || began === now;
}

/** Start time of a process: field 22 of /proc/PID/stat. The name in brackets before it may contain spaces. */
function beganAt(pid: number): { began?: string } {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    // A zombie process has ended, but its parent has not waited for it yet.
    return { began: fields[0] === 'Z' ? 'ended' : fields[19]! };
  } catch {
    return {};
  }
}

function parse(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Holder;
    return Number.isInteger(holder.pid) && typeof holder.host === 'string' ? holder : undefined;
  } catch {
    return undefined;
  }
}

/** Reads the text of a lock; undefined if it is gone. Waits for the text of one that was just created. */
function read(file: string): string | undefined {
  const until = Date.now() + EMPTY_LOCK_WAIT;
  for (;;) {
    try {
      const text = readFileSync(file, 'utf8');
      if (parse(text) || Date.now() > until) return text;
    } catch {
      return undefined;
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
}
