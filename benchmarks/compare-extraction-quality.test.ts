import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { blocksOf, foundIn, labelsOf } from './compare-extraction-quality';

const page = `<nav><a href="/">Home</a></nav><h1>The mill</h1><p>It stands at the end of the lane.</p>
  <script>hidden()</script><table><tr><td>Wheel</td><td>12 feet of oak</td></tr></table><p>Home</p><footer>Hill Farm</footer>`;
const blocks = blocksOf(page);

it('splits a page into blocks', () => {
  expect(blocks.map(({ text, words }) => [text.trim(), words])).toEqual([
    ['Home', 1],
    ['The mill', 2],
    ['It stands at the end of the lane.', 8],
    ['Wheel', 1],
    ['12 feet of oak', 4],
    ['Home', 1],
    ['Hill Farm', 2],
  ]);
});

it('finds blocks in the order of the page, short ones only after others', () => {
  const found = (text: string) => foundIn(blocks, text).map(Number).join('');
  expect(found('The mill\n\nIt stands at the end of the lane.\n\nWheel | 12 feet of oak\n\nHome')).toBe('0111110');
  expect(found('It stands at the end of the lane. And far from home there is a wheel.')).toBe('0010000');
  expect(found('')).toBe('0000000');
});

it('labels 30 pages of at least ten packages', () => {
  const labels = JSON.parse(readFileSync(new URL('./compare-extraction-labels.json', import.meta.url), 'utf8')) as {
    package: string;
    content: string;
  }[];
  expect(labels).toHaveLength(30);
  expect(new Set(labels.map((label) => label.package)).size).toBeGreaterThanOrEqual(10);
  const content = blocks.slice(1, 6).map(({ fingerprint }) => fingerprint);
  expect(labelsOf(blocks, content.join(' ')).map(Number).join('')).toBe('0111110');
});
