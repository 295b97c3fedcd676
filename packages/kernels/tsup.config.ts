import { readFileSync } from 'node:fs';
import path from 'node:path';
import * as core from '@tensorflow/tfjs-core';
import type { Plugin } from 'esbuild';
import { libraryConfig } from '../../tsup.base';

/**
 * tfjs-core registers its gradients only in a file that Node cannot import. This bundles that file, and imports from
 * tfjs-core itself whatever it exports: a bundle of everything that the gradients import would be four times as large.
 */
const gradients: Plugin = {
  name: 'gradients',
  setup(build) {
    const inside = /tfjs-core[\\/]dist[\\/](?!gradients[\\/]|register_all_gradients)/;
    build.onResolve({ filter: /^\./ }, async ({ path: specifier, importer, resolveDir, kind, pluginData }) => {
      if (pluginData === 'resolved' || !/tfjs-core[\\/]dist[\\/]/.test(importer)) return undefined;
      const resolved = await build.resolve(specifier, { kind, resolveDir, pluginData: 'resolved' });
      if (!inside.test(resolved.path)) return resolved;
      // Not the whole path, which would make the build depend on where it runs.
      const name = resolved.path.split(/tfjs-core[\\/]dist[\\/]/)[1]!.replaceAll('\\', '/');
      return { path: name, namespace: 'tfjs-core', pluginData: resolved.path };
    });
    build.onLoad(
      { filter: /./, namespace: 'tfjs-core' },
      ({ path: name, pluginData: file }: { path: string; pluginData: string }) => ({
        contents: throughCore(name, file),
        resolveDir: path.dirname(file),
      }),
    );
  },
};

/** A module with the exports of a file of tfjs-core, re-exported from tfjs-core's entry where it has them. */
function throughCore(name: string, file: string): string {
  if (file.endsWith('engine.js')) {
    return "import { engine } from '@tensorflow/tfjs-core'; export const ENGINE = engine();";
  }
  const lines = ["import * as core from '@tensorflow/tfjs-core';"];
  let isComplete = true;
  for (const [, several, single] of readFileSync(file, 'utf8').matchAll(/^export (?:\{ (.*) \}|\* from|\w+ (\w+))/gm)) {
    for (const n of (single ?? several)?.split(', ') ?? ['*']) {
      if (n in core) lines.push(`export { ${n} } from '@tensorflow/tfjs-core';`);
      else if (n in core.util) lines.push(`export const ${n} = core.util.${n};`);
      else isComplete = false;
    }
  }
  if (!isComplete) lines.push(`export * from '@tensorflow/tfjs-core/dist/${name}';`);
  return lines.join('\n');
}

export default libraryConfig({ esbuildPlugins: [gradients], noExternal: [/tfjs-core.dist/] });
