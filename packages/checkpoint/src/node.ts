/**
 * Node's own modules for the functions that touch files, fetched when called and by name, so that bundles for the
 * browser neither contain nor miss them.
 */
export function nodeModules(caller: string) {
  if (typeof process !== 'object' || !process.getBuiltinModule) {
    throw new Error(`${caller} needs the files of Node. In a browser, fetch the bytes and call parseSafetensors.`);
  }
  const { basename, dirname, join } = process.getBuiltinModule('node:path');
  return { fs: process.getBuiltinModule('node:fs/promises'), basename, dirname, join };
}
