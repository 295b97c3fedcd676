import { readdirSync, readFileSync } from 'node:fs';
import { extractPage, tidyParts } from '../src/pages/extract';

const folder = new URL('./reference/', import.meta.url);

/** Names of the pages in `test/reference`. */
export const goldenPages = readdirSync(folder)
  .filter((name) => name.endsWith('.html'))
  .map((name) => name.replace('.html', ''));

export function readPage(name: string): Buffer {
  return readFileSync(new URL(`${name}.html`, folder));
}

export function readExpected(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'));
}

/** The content of the golden files. */
export function extracted(name: string) {
  const page = extractPage(readPage(name), { url: `https://example.org/pages/${name}.html` });
  return { ...page, parts: tidyParts(page.parts) };
}
