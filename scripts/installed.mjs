import { existsSync, statSync } from 'node:fs';
import path from 'node:path';

/** Whether node_modules was installed from the current lock file. */
export function installed(root) {
  const [lock, done] = ['package-lock.json', 'node_modules/.package-lock.json'].map((file) => path.join(root, file));
  return existsSync(done) && statSync(done).mtimeMs >= statSync(lock).mtimeMs;
}
