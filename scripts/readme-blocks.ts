import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '..');

export interface Block {
  readonly language: string;
  readonly code: string;
  /** Line number of the first line of code, for messages. */
  readonly line: number;
}

/**
 * The fenced blocks of a Markdown file, in order. A block marked `continued`, such as `ts continued`, is appended to the
 * previous block of its language.
 */
export function blocksOf(file: string): Block[] {
  const blocks: Block[] = [];
  let open: { language: string; continued: boolean; line: number; lines: string[] } | undefined;
  for (const [i, text] of readFileSync(file, 'utf8').split('\n').entries()) {
    const fence = /^```(\w*)( continued)?/.exec(text);
    if (fence && open) {
      const { language, continued, line, lines } = open;
      const before = continued ? blocks.findLastIndex((block) => block.language === language) : blocks.length;
      if (before < 0)
        throw new Error(`${file}:${line - 1}: there is no earlier block to continue. Remove "continued".`);
      const { code, line: first } = blocks[before] ?? { code: '', line };
      blocks[before] = { language, code: code + lines.join('\n') + '\n', line: first };
      open = undefined;
    } else if (fence) {
      open = { language: fence[1]!, continued: fence[2] !== undefined, line: i + 2, lines: [] };
    } else {
      open?.lines.push(text);
    }
  }
  if (open) throw new Error(`${file}:${open.line - 1}: this fenced block is never closed.`);
  return blocks;
}

/** Paths of all documents whose examples must work, relative to the root: READMEs, docs and the contributor's guide. */
export function documents(): string[] {
  const folders = ['packages', 'apps'].flatMap((parent) =>
    readdirSync(path.join(root, parent)).map((name) => `${parent}/${name}/README.md`),
  );
  const docs = existsSync(path.join(root, 'docs'))
    ? readdirSync(path.join(root, 'docs')).map((name) => `docs/${name}`)
    : [];
  return ['README.md', 'CONTRIBUTING.md', 'examples/README.md', ...docs, ...folders].filter(
    (file) => file.endsWith('.md') && existsSync(path.join(root, file)),
  );
}

/**
 * Whether an example failed only because the machine has no oneDNN. That is acceptable unless FLAMINGO_TEST_BACKENDS names the
 * backend `native`, or CI is set.
 */
export function onlyLacksOneDnn(output: string): boolean {
  const { CI, FLAMINGO_TEST_BACKENDS } = process.env;
  return output.includes('oneDNN was not found') && !CI && !FLAMINGO_TEST_BACKENDS?.includes('native');
}
