import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONFIGS } from '../configs';
import { writeError } from '../stages/files';

/**
 * Writes a copy of the commented quickstart configuration that trains on the user's own folder.
 *
 * @throws Error if the file already exists
 */
export function initConfig(file: string, dataFolder: string): void {
  if (existsSync(file)) throw new Error(`init: ${file} already exists. Choose another name, or remove the file.`);
  const template = readFileSync(join(CONFIGS, 'quickstart.yaml'), 'utf8');
  const text = replaceOnce(
    replaceOnce(template, /^out: .*$/m, 'out: runs/my-model'),
    /^data:\n {2}kind: emoji$/m,
    `data:\n  kind: folder\n  path: ${JSON.stringify(dataFolder)}`,
  );
  try {
    writeFileSync(file, text);
  } catch (error) {
    throw writeError(error, file, 'Choose another path.');
  }
}

function replaceOnce(text: string, pattern: RegExp, by: string): string {
  if (!pattern.test(text))
    throw new Error(`init: quickstart.yaml has no ${pattern.source}. Install the trainer again.`);
  return text.replace(pattern, () => by);
}
