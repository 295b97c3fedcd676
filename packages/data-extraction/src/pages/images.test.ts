import { describe, expect, it } from 'vitest';
import { extractPage } from './extract';
import { parseSrcset } from './images';

const spacer = 'data:image/gif;base64,R0lGODlhAQABAAAAACw=';
const preview = `data:image/jpeg;base64,${'A'.repeat(600)}`;
const sourcesOf = (html: string) =>
  extractPage(html, { url: 'https://e.org/' }).parts.flatMap((part) =>
    'text' in part ? [] : [part.image.sources.map((url) => url.replace('https://e.org/', '').slice(0, 10))],
  );

describe('URLs of an image', () => {
  it.each([
    ['<img src="a.png">', ['a.png']],
    ['<img src="a.png" srcset="b.png 2x, c.png 3x">', ['c.png', 'b.png', 'a.png']],
    // First what a script loads, then what it replaces.
    ['<img src="a.png" data-src="b.png">', ['b.png', 'a.png']],
    ['<img src="a.png" srcset="p.png 2x" data-src="b.png">', ['b.png', 'p.png', 'a.png']],
    [`<img src="${spacer}" data-src="b.png">`, ['b.png']],
    [`<img srcset="${preview} 32w" data-src="b.png">`, ['b.png']],
    [`<img src="${preview}" srcset="b.png 2x">`, ['b.png']],
    [`<img src="${preview}">`, ['data:image']],
    ['<img src="/img/blank.gif" data-src="b.png">', ['b.png']],
    // Attributes of custom scripts.
    ...['data-actualsrc', 'data-lazyload', 'data-img-src', 'data-srv', 'data-cfsrc', 'data-src-medium'].map(
      (key) => [`<img src="${spacer}" ${key}="b.jpg?w=100">`, ['b.jpg?w=10']] as const,
    ),
    ['<img src="/img/placeholder.png" data-full="b.webp">', ['b.webp']],
    // Not used if the image has another URL.
    ['<img src="a.png" data-hover="b.png" data-url="/page.html">', ['a.png']],
    [`<img src="${spacer}" data-url="/page.html" data-title="a.b">`, undefined],
  ] as const)('%s', (html, sources) => expect(sourcesOf(html)[0]).toEqual(sources));

  it('keeps the order of formats in a <picture>', () => {
    const picture = '<picture><source srcset="a.avif"><source srcset="a.webp"><img src="a.jpg"></picture>';
    expect(sourcesOf(picture)).toEqual([['a.avif', 'a.webp', 'a.jpg']]);
  });

  it('drops a placeholder that several lazy images show', () => {
    const lazy = (name: string) => `<img srcset="wait.png 2x" data-src="${name}">`;
    expect(sourcesOf(lazy('a.png') + lazy('b.png'))).toEqual([['a.png'], ['b.png']]);
    expect(sourcesOf(lazy('a.png'))).toEqual([['a.png', 'wait.png']]);
  });
});

it('parseSrcset reads widths, densities and URLs with commas', () => {
  expect(parseSrcset('a,b.png 2x, c.png')).toEqual([
    { url: 'a,b.png', size: 1280 },
    { url: 'c.png', size: 640 },
  ]);
  expect(parseSrcset(' , x.png, y.png 300w,')).toEqual([
    { url: 'x.png', size: 640 },
    { url: 'y.png', size: 300 },
  ]);
  expect(parseSrcset('')).toEqual([]);
});
