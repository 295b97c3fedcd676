import { expect, it } from 'vitest';
import { parseJson } from './json';

const parse = (text: string) => parseJson(new TextEncoder().encode(text), 'config.json');

it('reads non-finite numbers as Python writes them, except inside strings', () => {
  const text = '{"a": Infinity, "b": [-Infinity, NaN, 1], "c": "NaN, \\"Infinity", "NaN": "\\\\", "d": NaN}';
  expect(parse(text)).toEqual({ a: Infinity, b: [-Infinity, NaN, 1], c: 'NaN, "Infinity', NaN: '\\', d: NaN });
});

it('skips a byte order mark', () => {
  expect(parse('\ufeff{"a": 1}')).toEqual({ a: 1 });
});

it('names a file that is not valid JSON', () => {
  expect(() => parse('{"a": Infinit}')).toThrow(
    /^config\.json is not valid JSON \(.*\)\. Fetch or write the file again/,
  );
  expect(() => parse('{"a": "NaN')).toThrow(/^config\.json is not valid JSON/);
  expect(() => parseJson(Uint8Array.of(0x22, 0xff, 0x22), 'config.json')).toThrow(/^config\.json is not valid JSON/);
  expect(() => parse('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n')).toThrow(
    /^config\.json is a Git LFS pointer, not the file itself\. Run "git lfs pull"/,
  );
});
