/**
 * Node's built-in modules for the functions that use files. They are looked up by name when called, so that browser
 * bundles neither include them nor fail without them.
 */
export function nodeModules(caller: string) {
  if (typeof process !== 'object' || !process.getBuiltinModule) {
    throw new Error(
      `${caller} requires the file system of Node. In a browser, fetch the bytes and call parseSafetensors.`,
    );
  }
  const { basename, dirname, join } = process.getBuiltinModule('node:path');
  const { createHash } = process.getBuiltinModule('node:crypto');
  return { fs: process.getBuiltinModule('node:fs/promises'), createHash, basename, dirname, join };
}
