import { renameSync, writeFileSync } from 'node:fs';

/** Writes a text beside its place and renames it: killed at any moment, the file is the old one or the new one. */
export function replaceFile(file: string, text: string): void {
  const temporary = `${file}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, file);
}
