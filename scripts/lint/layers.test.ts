import path from 'node:path';
import { ESLint } from 'eslint';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');
const eslint = new ESLint({ cwd: root });

/** Messages of the import rule for `code` in `file`. */
async function lint(file: string, code: string): Promise<string[]> {
  const [result] = await eslint.lintText(code, { filePath: path.join(root, file) });
  return result!.messages.filter(({ ruleId }) => ruleId === 'workspace/layers').map(({ message }) => message);
}

describe('import rule', () => {
  it.each([
    [
      'optim',
      'import { Flamingo } from "@flamingo-ts/flamingo";',
      /must not be imported here: layer 'core' may import 'kernels'/,
    ],
    ['nfnet', 'export { x } from "@flamingo-ts/clip-vit";', /'module' may import 'core', 'kernels', .* is 'module'/],
    [
      'flamingo',
      'import { registerNativeBackend } from "@flamingo-ts/backend-native";',
      /must not be imported here.* is 'backend'/,
    ],
    ['backend-native', 'const f = await import("@flamingo-ts/flamingo");', /layer 'backend' may import 'kernels'/],
    ['data-mixtures', 'import * as tf from "@tensorflow/tfjs-core";', /is a tensor library/],
    ['data-mixtures', 'import { linear } from "@flamingo-ts/kernels";', /layer 'data' may import 'random'/],
    ['kernels', 'import type { CausalLM } from "@flamingo-ts/lm-core";', /layer 'kernels' may import 'random'/],
    [
      'kernels',
      'export const x: import("@flamingo-ts/lm-core").CausalLM = null as never;',
      /must not be imported here/,
    ],
    [
      'gated-xattn',
      'import { cache } from "@flamingo-ts/lm-core/src/cache";',
      /is a deep import: @flamingo-ts\/lm-core has one entry/,
    ],
    ['gated-xattn', 'import { cache } from "../../lm-core/src/cache";', /import @flamingo-ts\/lm-core by its name/],
    ['gated-xattn', 'import { helper } from "../../../scripts/helper";', /is outside the package/],
    ['perceiver-resampler', 'import { x } from "@flamingo-ts/testing";', /is for tests only/],
    [
      'perceiver-resampler',
      'import sharp from "sharp";',
      /not in dependencies or peerDependencies of @flamingo-ts\/perceiver-resampler/,
    ],
  ])('packages/%s forbids %s', async (name, code, why) => {
    const [message, ...more] = await lint(`packages/${name}/src/planted.ts`, code);
    expect(message).toMatch(why);
    expect(more).toEqual([]);
  });

  it.each([
    ['packages/flamingo/src/planted.ts', 'import { linear } from "@flamingo-ts/kernels";'],
    ['packages/flamingo/src/planted.ts', 'import { readFile } from "node:fs/promises"; import { x } from "./x";'],
    [
      'packages/optim/src/planted.test.ts',
      'import { expectClose } from "@flamingo-ts/testing"; import { it } from "vitest";',
    ],
    ['packages/optim/test/planted.ts', "import { it } from 'vitest'; import { x } from '@flamingo-ts/testing';"],
    ['scripts/planted.ts', "import { gpt2 } from '../packages/lm-core/test/gpt2';"],
    ['apps/trainer/src/planted.ts', 'import { registerNativeBackend } from "@flamingo-ts/backend-native";'],
  ])('%s allows %s', async (file, code) => {
    expect(await lint(file, code)).toEqual([]);
  });
});
