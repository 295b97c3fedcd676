import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { extracted, goldenPages, readExpected, readPage } from '../../test/golden-pages';
import { extractPage, tidyParts, type ExtractedPage } from './extract';
import { PAGE_LIMITS } from './html';

const url = 'https://example.org/';
const textOf = (page: ExtractedPage) => page.parts.map((part) => ('text' in part ? part.text : '<image>')).join('');

describe('reference pages', () => {
  it('number at least twelve', () => expect(goldenPages.length).toBeGreaterThanOrEqual(12));
  it.each(goldenPages)('%s', (name) => expect(extracted(name)).toEqual(readExpected(name)));
});

describe('extractPage', () => {
  it('keeps a page whose wrapper is named like a banner', () => {
    const page = extractPage(`<div class="modal sidebar"><p>${'All that the page says. '.repeat(9)}</p></div>`, {
      url,
    });
    expect(textOf(page)).toMatch(/^All that/);
  });

  it('uses words in names, and ignores generated names', () => {
    const page = (id: string) => `<p>${'Bees sleep at night. '.repeat(9)}</p><div id="${id}">Buy now and win.</div>`;
    const isKept = (id: string) => textOf(extractPage(page(id), { url })).includes('Buy');
    for (const id of ['ad', 'ad-300x250', 'topAd', 'div_ad_12', 'ad2', 'ad728x90']) expect(isKept(id), id).toBe(false);
    for (const id of ['ad69bd113', 'x3ad4f', 'load', '7ad', 'r_a0ad12']) expect(isKept(id), id).toBe(true);
  });

  it('drops symbols that link to a heading or caption, and keeps other symbols', () => {
    const permalink = (symbol: string) => `<a class="headerlink" href="#bees" title="Permalink">${symbol}</a>`;
    const page = `<h1 id="bees">Bees${permalink('¶')}</h1><p>They sleep in <a href="#flowers">#flowers</a>, and by
      <a href="#law">§ 4</a> may; see <a href="/list">#</a>.</p>
      <figure><img src="hive.jpg"><figcaption>A hive${permalink(' # ')}</figcaption></figure>
      <table><tr><th>Month${permalink('🔗')}</th><th>Honey</th></tr><tr><td>May</td><td>9 kg</td></tr></table>`;
    expect(tidyParts(extractPage(page, { url: 'https://a.example/' }).parts)).toMatchObject([
      { text: 'Bees\n\nThey sleep in #flowers, and by § 4 may; see #.' },
      { image: { caption: 'A hive' } },
      { text: 'Month | Honey\nMay | 9 kg' },
    ]);
  });

  it('keeps links within sentences', () => {
    const link = (word: string) => `<a href="/${word}">${word}</a>`;
    const prose = `<p>From the ${link('harbour')} one sees the ${link('mill')}, and behind it, when the air is clear, the
      ${link('mountains')} of the north with their snow.</p>`;
    expect(textOf(extractPage(prose, { url }))).toContain('mountains');
  });

  it('treats images below minSide as icons', () => {
    const img = '<p>text</p><img src="a.png" width="100">';
    expect(textOf(extractPage(img, { url }))).toContain('<image>');
    expect(extractPage(img, { url, minSide: 150 }).dropped).toEqual({ 'image: icon': 1 });
  });

  it('rejects hostile pages quickly', () => {
    const deep = '<div>'.repeat(1_000_000);
    expect(() => extractPage(deep, { url })).toThrow('page: nested too deeply');
    const wide = '<br>'.repeat(PAGE_LIMITS.nodes + 1);
    expect(() => extractPage(wide, { url })).toThrow('page: too many elements');
    expect(() => extractPage(new Uint8Array(PAGE_LIMITS.bytes + 1), { url })).toThrow('page: too large');
    // Unmatched closing tags at the maximum depth.
    extractPage('<b>'.repeat(500) + '</i>'.repeat(1_000_000), { url });
    extractPage(`<img srcset="${' ,'.repeat(1_000_000)}">`, { url });
    extractPage(`<p ${'a '.repeat(1_000_000)}>`, { url });
  });
});

describe('mutated pages', () => {
  const pages = goldenPages.map((name) => readPage(name).toString('latin1'));
  const fragments = ['<', '>', '"', '</p>', '<table>', '<td>', '<li>', '<pre>', '<a href=x>', '<figure>', '&#', '<!--'];
  const edit = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    cut: fc.nat(60),
    insert: fc.oneof(fc.constantFrom(...fragments), fc.string({ maxLength: 8 })),
  });
  const mutated = fc
    .record({ page: fc.constantFrom(...pages), edits: fc.array(edit, { maxLength: 12 }) })
    .map(({ page, edits }) =>
      edits.reduce((text, { at, cut, insert }) => {
        const start = Math.floor(at * text.length);
        return text.slice(0, start) + insert + text.slice(start + cut);
      }, page),
    );

  it('give tidy parts, the same each time', () => {
    fc.assert(
      fc.property(mutated, (html) => {
        const page = Buffer.from(html, 'latin1');
        const first = extractPage(page, { url });
        expect(extractPage(page, { url })).toEqual(first);
        const parts = tidyParts(first.parts);
        parts.forEach((part, i) => {
          if (!('text' in part)) return expect(part.image.sources.length).toBeGreaterThan(0);
          expect(part.text).toMatch(/\S$/);
          expect(part.text).not.toMatch(/\n{3}/);
          expect(i > 0 && 'text' in parts[i - 1]!).toBe(false);
        });
      }),
      { numRuns: Number(process.env['FLAMINGO_FUZZ_RUNS'] ?? 300) },
    );
  }, 3_600_000);
});

// apt-get download gimp-help-en && dpkg -x gimp-help-en_*.deb FOLDER
const help = path.join(process.env['FLAMINGO_GIMP_HELP'] ?? '', 'usr/share/gimp/2.0/help/en');
const given = process.env['FLAMINGO_GIMP_HELP'] !== undefined && existsSync(help);
describe.skipIf(!given)('pages of gimp-help-en (FLAMINGO_GIMP_HELP names the folder where it is unpacked)', () => {
  const read = (name: string) => {
    const file = path.join(help, name);
    return extractPage(readFileSync(file), { url: pathToFileURL(file).href });
  };

  it('give the text of their sections without navigation', () => {
    const names = readdirSync(help).filter((name) => name.endsWith('.html'));
    expect(names.length).toBeGreaterThan(600);
    let images = 0;
    for (const name of names) {
      const page = read(name);
      expect(textOf(page), name).not.toMatch(/^(?:Prev|Next|Up|Home)$|Report a bug/m);
      images += page.parts.filter((part) => 'image' in part).length;
    }
    expect(images).toBeGreaterThan(1500);
  }, 120_000);

  it('give captions with their images, in place', () => {
    const parts = read('gimp-filter-emboss.html').parts;
    const [heading, first, second, overview] = parts;
    expect(heading).toEqual({ text: expect.stringMatching(/5\.3\. Emboss\s+5\.3\.1\. Overview\s+$/) });
    expect(first).toMatchObject({
      image: { alt: 'Applying example for the Emboss filter', caption: expect.stringMatching(/Original image$/) },
    });
    expect(second).toMatchObject({ image: { caption: 'Filter “Emboss” applied' } });
    expect(overview).toEqual({ text: expect.stringMatching(/^\s+This filter stamps and carves/) });
  });
});
