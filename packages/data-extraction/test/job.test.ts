import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { contents, gather, html, pageOf, image, prose, THINGS, warcRecord } from './sample-pages';
import { presets } from '../src/filters/presets';
import { ImageFetcher } from '../src/images/image-fetcher';
import { Assembly } from '../src/job/assemble';
import { extractPages, type ExtractPagesOptions } from '../src/job/job';
import { planUnits } from '../src/job/sources';
import { UnitExtractor } from '../src/job/unit';
import { WorkFolder } from '../src/job/work-folder';

const scratch = mkdtempSync(path.join(tmpdir(), 'extraction-'));
afterAll(() => rmSync(scratch, { recursive: true }));
let folders = 0;
const folder = () => {
  const name = path.join(scratch, `folder-${folders++}`);
  mkdirSync(name);
  return name;
};

const read = (out: string) =>
  readFileSync(path.join(out, 'pages.jsonl'), 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
const extract = (inputs: string[], options: Partial<ExtractPagesOptions> = {}) => {
  const out = path.join(scratch, `out-${folders++}`);
  return extractPages({ inputs, out, workers: 1, ...options }).then((manifest) => ({
    out,
    manifest,
    pages: read(out),
  }));
};

describe('extractPages on a folder', () => {
  let input: string;
  beforeAll(async () => {
    input = folder();
    for (let i = 0; i < 4; i++) writeFileSync(path.join(input, `p${i}.png`), await image(i));
    writeFileSync(path.join(input, 'wide.png'), await image(9, 800, 100));
    writeFileSync(path.join(input, 'tiny.png'), await image(9, 40, 40));
    writeFileSync(path.join(input, 'svg.png'), '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"/>');
    writeFileSync(path.join(input, 'cut.png'), (await image(9)).subarray(0, 900));
    const gray = sharp({ create: { width: 200, height: 200, channels: 3, background: '#808080' } });
    writeFileSync(path.join(input, 'gray.jpg'), await gray.jpeg().toBuffer());
    for (let i = 0; i < 4; i++) writeFileSync(path.join(input, `page${i}.html`), pageOf(i, `p${i}.png`));
  });
  const withPage = async (name: string, text: string, options?: Partial<ExtractPagesOptions>) => {
    writeFileSync(path.join(input, name), text);
    try {
      return await extract([input], options);
    } finally {
      rmSync(path.join(input, name));
    }
  };

  it('writes documents, pairs, images and a consistent manifest', async () => {
    const { out, manifest, pages } = await extract([input]);
    expect(manifest).toMatchObject({
      preset: 'm3w',
      pages: 4,
      documents: 4,
      images: 4,
      pairs: 4,
      dropped: {},
      failures: [],
    });
    expect(pages[1]).toEqual({
      url: 'page1.html',
      title: 'A page',
      parts: [
        { text: `About the ${THINGS[1]} of 1\n\n${prose(1)}` },
        { image: expect.stringMatching(/^images\/(\w\w)\/\1\w{38}\.png$/), alt: 'thing of number 1' },
      ],
    });
    expect(readFileSync(path.join(out, pages[1].parts[1].image))).toEqual(readFileSync(path.join(input, 'p1.png')));
    expect(readFileSync(path.join(out, 'pairs.jsonl'), 'utf8')).toContain('thing of number 3');
    expect(readdirSync(out).sort()).toEqual(['images', 'job.json', 'manifest.json', 'pages.jsonl', 'pairs.jsonl']);
    expect(await extractPages({ inputs: [input], out })).toEqual(manifest);
  });

  it('counts dropped images by reason', async () => {
    const images = ['wide.png', 'tiny.png', 'svg.png', 'cut.png', 'gray.jpg', 'absent.png', 'p0.png?copy', 'p0.png'];
    const page = html(`<p>${prose(50)}</p>${images.map((src) => `<img src="${src}">`).join('')}`);
    const { manifest } = await withPage('z.html', page);
    expect(manifest.documents).toBe(5);
    expect(manifest.dropped).toEqual({
      'image: aspect ratio': 1,
      'image: duplicate on the page': 1,
      'image: format': 1,
      'image: not available': 1,
      'image: single color': 1,
      'image: too small': 1,
      'image: unreadable': 1,
    });
  });

  it.each([
    ['m3w', 'Press the button that glows.\n\nOne.\n\nTwo.\n\n- Three.\n- Four.'],
    // Requires lines of at least five words that end a sentence.
    ['mmc4', ''],
  ] as const)('keeps words and paragraphs separate where %s drops an image between them', async (preset, short) => {
    const icon = (name = 'tiny.png') => `<img src="${name}">`;
    const [first, second, third] = [50, 51, 52].map(prose);
    const page = html(`<img src="p0.png"><p>${first}</p>${icon('absent.png')}<p>${second}</p>${icon('wide.png')}
      <p>Press the ${icon()} button that glows.</p>
      <p>${icon()}One.</p><p>${icon('cut.png')} Two.</p><ul><li>${icon('svg.png')}Three.</li><li>${icon('a.png')} Four.</li></ul>
      <h2>Last${icon('b.png')}</h2>${icon('c.png')}<p>${third}</p>`);
    const { pages } = await withPage('icons.html', page, { preset });
    const [, { text }] = pages.find(({ url }) => url === 'icons.html').parts;
    const lines = (text: string) => text.split(/\n+/);
    const whole = `${first}\n\n${second}\n\n${short && `${short}\n\nLast\n\n`}${third}`;
    if (preset === 'm3w') expect(text).toBe(whole);
    else expect(lines(text)).toEqual(lines(whole));
  });

  it.each([
    ['no images', html(`<p>${prose(50)}</p>`)],
    ['no images left', html(`<p>${prose(50)}</p><img src="tiny.png">`)],
    ['fewer than 50 words', html('<p>A few words and the end of them.</p><img src="p0.png">')],
    [
      'not in en',
      html(
        `<p>${'Als der Garten noch neu war, kamen die Leute aus dem Tal, um ihn zu sehen. '.repeat(6)}</p><img src="p0.png">`,
      ),
    ],
    ['nested too deeply', '<div>'.repeat(1000)],
    ['opted out', `<head><meta name="robots" content="noai"></head>${pageOf(5, 'p0.png')}`],
    ['opted out', `<head><meta name="TDM-reservation" content="1"></head>${pageOf(5, 'p0.png')}`],
    ['duplicate text', pageOf(2, 'p0.png')],
    ['near duplicate', pageOf(2, 'p0.png').replace('</p>', ' And so it stayed.</p>')],
    [
      'one 2-gram too frequent',
      html(`<p>${prose(50)}</p><p>${'It rains again on the old road. '.repeat(30)}</p><img src="p0.png">`),
    ],
  ])('drops a page for: %s', async (reason, page) => {
    const { manifest } = await withPage('z.html', page);
    expect(manifest.documents).toBe(4);
    expect(Object.keys(manifest.dropped)).toContain(`page: ${reason}`);
  });

  it('applies the other presets', async () => {
    const plain =
      'What you see here is the way in which they have made it, and it has been so for as long as we can tell. That is why no one would do it in any other way, even if they could.';
    const page = html(`<p>${plain}</p><p>Two words</p><img src="p0.png"><p>More.</p><img src="my-logo.png">`);
    const obelics = await withPage('z.html', page, { preset: 'obelics' });
    expect(obelics.pages.at(-1)).toMatchObject({
      url: 'z.html',
      parts: [{ text: plain }, { image: expect.any(String) }],
    });
    expect(obelics.manifest.dropped).toMatchObject({ 'image: word in the URL': 1 });
    expect(obelics.manifest.dropped['paragraph: fewer than 4 words']).toBeGreaterThanOrEqual(2);
    const mmc4 = await extract([input], { preset: 'mmc4' });
    expect(mmc4.manifest.dropped).toMatchObject({ 'line: not a sentence': 4 });
    expect(mmc4.manifest.documents).toBe(4);
  });

  it('names a damaged manifest, and writes the same one once it is removed', async () => {
    const out = folder();
    const manifest = await extractPages({ inputs: [input], out });
    const file = path.join(out, 'manifest.json');
    writeFileSync(file, '{"documents": ');
    await expect(extractPages({ inputs: [input], out })).rejects.toThrow(
      /manifest\.json is damaged: .*\. Remove it and extract again\./,
    );
    rmSync(file);
    expect(await extractPages({ inputs: [input], out })).toEqual(manifest);
  });

  it('reads nothing outside the folder and writes nothing outside the output', async () => {
    const outside = path.join(scratch, 'secret.png');
    writeFileSync(outside, await image(77));
    symlinkSync(outside, path.join(input, 'link.png'));
    const before = readdirSync(scratch).length;
    const sources = [
      '../secret.png',
      '../../secret.png',
      `file://${outside}`,
      '%2e%2e/secret.png',
      'link.png',
      `/../${outside}`,
    ];
    const { manifest, pages } = await withPage(
      'z.html',
      html(`<p>${prose(50)}</p><img src="p0.png">${sources.map((src) => `<img src="${src}">`).join('')}`),
    );
    rmSync(path.join(input, 'link.png'));
    expect(pages.at(-1).parts.filter((part: object) => 'image' in part)).toHaveLength(1);
    expect(manifest.dropped['image: not available']).toBeGreaterThanOrEqual(4);
    expect(readdirSync(scratch)).toHaveLength(before + 1);
  });

  it('drops copies of benchmarks, scaled and recompressed or quoted', async () => {
    const benchmark = folder();
    const smaller = sharp(await image(1))
      .resize(120, 96)
      .jpeg({ quality: 70 });
    writeFileSync(path.join(benchmark, 'test.jpg'), await smaller.toBuffer());
    const quoted = prose(3).split(' ').slice(5, 18).join(' ');
    writeFileSync(path.join(benchmark, 'questions.jsonl'), JSON.stringify({ q: [`${quoted}?`] }));
    const { manifest, pages } = await extract([input], { benchmark });
    expect(manifest.dropped).toMatchObject({ 'image: benchmark': 1, 'page: no images left': 1, 'page: benchmark': 1 });
    expect(pages.map(({ url }) => url)).toEqual(['page0.html', 'page2.html']);
  });

  it('drops what a hook calls explicit', async () => {
    const hook = path.join(folder(), 'hook.mjs');
    writeFileSync(
      hook,
      `export const text = (text) => text.includes('of 2'); export const image = (bytes) => bytes.length < 0;`,
    );
    expect((await extract([input], { explicitHook: hook })).manifest.dropped).toEqual({ 'page: explicit': 1 });
    writeFileSync(hook, 'export const words = 1;');
    await expect(extract([input], { explicitHook: hook })).rejects.toThrow(
      /expected a module that exports .* got words/,
    );
  });

  it('uses the first version of an image that fits, not the first that exists', async () => {
    const input = folder();
    const jpeg = await sharp(await image(61))
      .jpeg()
      .toBuffer();
    writeFileSync(path.join(input, 'a.jpg'), jpeg);
    writeFileSync(path.join(input, 'a.avif'), await sharp(jpeg).avif().toBuffer());
    writeFileSync(path.join(input, 'a.webp'), await sharp(jpeg).webp().toBuffer());
    writeFileSync(path.join(input, 'error.jpg'), '<html>404 not found</html>');
    writeFileSync(
      path.join(input, 'my%20b.jpg'),
      await sharp(await image(62))
        .jpeg()
        .toBuffer(),
    );
    writeFileSync(
      path.join(input, 'c d.jpg'),
      await sharp(await image(63))
        .jpeg()
        .toBuffer(),
    );
    const picture = '<picture><source srcset="a.avif"><source srcset="a.webp"><img src="a.jpg"></picture>';
    const plain =
      'What you see here is the way in which they have made it, and it has been so for as long as we can tell. That is why no one would do it in any other way, even if they could. So it was with all of them, and it is to this day.';
    writeFileSync(path.join(input, 'a.html'), html(`<p>${plain}</p>${picture}`));
    writeFileSync(path.join(input, 'b.html'), html(`<p>${prose(62)}</p><img srcset="error.jpg 2x" src="my%20b.jpg">`));
    writeFileSync(path.join(input, 'c.html'), html(`<p>${prose(63)}</p><img src="none.jpg" srcset="c%20d.jpg 2x">`));
    const formats = async (preset: 'm3w' | 'obelics' | 'mmc4') => {
      const { pages } = await extract([input], { preset });
      return pages.map(({ parts }) =>
        parts.flatMap((part: { image?: string }) => (part.image ? part.image.split('.').at(-1) : [])).join(),
      );
    };
    expect(await formats('m3w')).toEqual(['avif', 'jpg', 'jpg']);
    expect((await formats('obelics'))[0]).toBe('webp');
    expect((await formats('mmc4'))[0]).toBe('jpg');
  });

  it('uses the alternative text of a dropped image within a sentence', async () => {
    const icon = '<img src="tiny.png" alt="Save">';
    const { pages } = await withPage(
      'z.html',
      html(`<p>${prose(64)} Press ${icon} and wait.</p><p>${icon}</p><img src="p0.png">`),
    );
    expect(pages.find(({ url }) => url === 'z.html').parts[0].text).toMatch(/Press Save and wait\.$/);
  });

  it('never runs code that is named in the work folder', async () => {
    const work = new WorkFolder(folder());
    const hook = path.join(folder(), 'hook.mjs');
    writeFileSync(hook, 'globalThis.planted = true; export const text = () => false;');
    const planted = { preset: 'm3w', explicitHook: hook } as never;
    await UnitExtractor.open(planted, work);
    expect(globalThis).not.toHaveProperty('planted');
    const explicitHookSha256 = createHash('sha256').update(readFileSync(hook)).digest('hex');
    const config = { preset: 'm3w', explicitHookSha256 };
    await expect(UnitExtractor.open(config, work)).rejects.toThrow(/expected the one that the job .* got no hook/);
    await UnitExtractor.open(config, work, { explicitHook: hook });
    expect(globalThis).toHaveProperty('planted');
    writeFileSync(hook, 'export const text = () => true;');
    await expect(UnitExtractor.open(config, work, { explicitHook: hook })).rejects.toThrow(/expected the one/);
    await expect(UnitExtractor.open({ preset: 'm3w' }, work, { explicitHook: hook })).rejects.toThrow(/expected none/);
  });

  it.each(['../../../planted.png', '/etc/passwd', 'a.png'])('rejects the file name %s from a worker', async (file) => {
    const work = new WorkFolder(folder());
    const info = { file, width: 100, height: 100, perceptualHash: '0'.repeat(16), alt: '', caption: '' };
    const unit = {
      page: { url: 'a', title: '', parts: [{ text: 'a' }, { image: info }] },
      keys: { url: 1, text: 2, bands: [] },
    };
    mkdirSync(path.dirname(work.unit(0, 0)), { recursive: true });
    writeFileSync(
      work.unit(0, 0),
      `${JSON.stringify(unit)}\n${JSON.stringify({ end: { pages: 1, dropped: {}, failures: [] } })}\n`,
    );
    await expect(Assembly.begin(work, presets.m3w, [1])).rejects.toThrow(
      /expected an image named by 40 hexadecimal digits/,
    );
  });

  it('rejects jobs that it cannot start or resume', async () => {
    const { out } = await extract([input]);
    await expect(extractPages({ inputs: [input], out, preset: 'mmc4' })).rejects.toThrow(
      /started with other inputs or options/,
    );
    await expect(extractPages({ inputs: [input], out: input })).rejects.toThrow(/expected an empty folder/);
    await expect(extract([path.join(input, 'none')])).rejects.toThrow(/no such file or folder/);
    await expect(extract([folder()])).rejects.toThrow(/found none/);
    await expect(extract([input], { preset: 'm4w' as never })).rejects.toThrow(
      /preset must be one of m3w, obelics, mmc4, got m4w/,
    );
  });
});

it('writes the same bytes after being killed several times', async () => {
  const input = folder();
  for (let i = 0; i < 5; i++) writeFileSync(path.join(input, `p${i}.png`), await image(i));
  for (let i = 0; i < 400; i++) writeFileSync(path.join(input, `page${i}.html`), pageOf(i, `p${i % 5}.png`));
  const { out: undisturbed, manifest } = await extract([input], { workers: 2 });
  expect(manifest.documents).toBeGreaterThan(20);

  const out = path.join(scratch, 'killed');
  const child = path.join(import.meta.dirname, 'extract-child.mts');
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  let kills = 0;
  for (let ended = false; !ended;) {
    ended = await new Promise<boolean>((resolve, reject) => {
      const running = spawn(process.execPath, ['--import', tsx, child, out, '-', input], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let lines = 0;
      running.stdout.on('data', (text: Buffer) => {
        lines += text.toString().split('\n').length - 1;
        // The first line reports earlier work; the second is printed during new work.
        if (lines >= 2 && kills < 4 && running.kill('SIGKILL')) kills++;
      });
      running.on('error', reject);
      running.on('close', (code, signal) =>
        code === 0 || signal === 'SIGKILL' ? resolve(code === 0) : reject(new Error(`ended with ${code}`)),
      );
    });
  }
  expect(kills).toBeGreaterThan(1);
  expect(contents(out)).toEqual(contents(undisturbed));
}, 120_000);

describe('extractPages on archives', () => {
  const records = async (count: number) => {
    const all: Buffer[] = [];
    for (let i = 0; i < count; i++) {
      all.push(warcRecord(`https://example.org/${i}/`, 'text/html', Buffer.from(pageOf(i, `/p${i}.png`))));
      all.push(warcRecord(`https://example.org/p${i}.png`, 'image/png', await image(i)));
    }
    return all;
  };
  const write = (name: string, bytes: Buffer) => {
    const file = path.join(folder(), name);
    writeFileSync(file, bytes);
    return file;
  };

  it.each([
    ['gzipped by record', 'a.warc.gz', (all: Buffer[]) => Buffer.concat(all.map((r) => gzipSync(r)))],
    ['gzipped as a whole', 'a.warc.gz', (all: Buffer[]) => gzipSync(Buffer.concat(all))],
    ['plain', 'a.warc', (all: Buffer[]) => Buffer.concat(all)],
  ])('joins pages with images that come later: %s', async (_, name, pack) => {
    const file = write(name, pack(await records(3)));
    const { manifest, pages } = await extract([file]);
    expect(manifest).toMatchObject({ pages: 3, documents: 3, images: 3, dropped: {} });
    expect(pages[2]).toMatchObject({ url: 'https://example.org/2/', parts: [{}, { alt: 'thing of number 2' }] });
  });

  it.each(['a.warc.gz', 'a.warc'])('produces the same result however %s is split', async (name) => {
    const all = await records(6);
    const file = write(name, Buffer.concat(name.endsWith('gz') ? all.map((r) => gzipSync(r)) : all));
    const units = await gather(planUnits([file], { warcBytes: 20_000 }));
    expect(units.length).toBeGreaterThan(3);
    const work = folder();
    const extractor = await UnitExtractor.open({ preset: 'm3w' }, new WorkFolder(work));
    const lines = async (parts: typeof units) => {
      const found: string[] = [];
      for (const unit of parts) {
        await extractor.extract(unit, path.join(work, 'unit'));
        found.push(
          ...readFileSync(path.join(work, 'unit'), 'utf8')
            .split('\n')
            .filter((line) => line && !line.startsWith('{"end"')),
        );
      }
      return found;
    };
    const whole = await lines(await gather(planUnits([file])));
    expect(whole).toHaveLength(12);
    expect(await lines(units)).toEqual(whole);
  });

  it('decodes responses, counts rejected ones, and keeps records before damage', async () => {
    const packed = gzipSync(Buffer.from(pageOf(1, '/p0.png')));
    const bomb = gzipSync(Buffer.alloc(64 * 2 ** 20, 'a '));
    const all = [
      ...(await records(1)),
      warcRecord('https://example.org/packed', 'text/html', packed, 'Content-Encoding: gzip\r\n'),
      warcRecord('https://example.org/bomb', 'text/html', bomb, 'Content-Encoding: gzip\r\n'),
      warcRecord('https://example.org/own', 'text/html', Buffer.from(pageOf(8, '/p0.png')), 'X-Robots-Tag: noai\r\n'),
      warcRecord('https://example.org/0', 'text/html', Buffer.from(pageOf(5, '/p0.png'))),
      warcRecord('https://example.org/lost/', 'text/html', Buffer.from(pageOf(7, '/p0.png'))),
    ].map((r) => gzipSync(r));
    const file = write('a.warc.gz', Buffer.concat([...all.slice(0, -1), all.at(-1)!.subarray(0, 100)]));
    const { manifest, pages } = await extract([file]);
    expect(pages.map(({ url }) => url)).toEqual(['https://example.org/0/', 'https://example.org/packed']);
    expect(manifest.dropped).toMatchObject({
      'page: too large': 1,
      'page: opted out': 1,
      'page: duplicate URL': 1,
      'archive: damaged': 1,
    });
  });

  it('rejects an archive that is one long line', async () => {
    const bomb = write('bomb.warc.gz', gzipSync(Buffer.alloc(300 * 2 ** 20, 'x')));
    const { manifest } = await extract([bomb]);
    expect(manifest).toMatchObject({ documents: 0, dropped: { 'archive: damaged': 1 } });
  });
});

describe('images that the input does not contain', () => {
  const serve = async (answers: Record<string, { body: Buffer; headers?: Record<string, string> }>) => {
    const requested: string[] = [];
    const server = createServer((request, response) => {
      requested.push(request.url!);
      const answer = answers[request.url!];
      if (!answer) response.writeHead(404).end();
      else response.writeHead(200, { 'content-type': 'image/png', ...answer.headers }).end(answer.body);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    return { requested, host: `http://127.0.0.1:${port}`, close: () => server.close() };
  };

  it('are fetched only on request, and never from this machine or its network', async () => {
    const server = await serve({ '/a.png': { body: await image(1) } });
    const input = folder();
    writeFileSync(path.join(input, 'a.html'), pageOf(1, `${server.host}/a.png`));
    const without = await extract([input]);
    expect(without.manifest.dropped).toEqual({ 'image: not available': 1, 'page: no images left': 1 });
    const refused = await extract([input], { fetchImages: true });
    expect(refused.manifest.dropped).toEqual({
      'fetch: private address': 1,
      'image: not available': 1,
      'page: no images left': 1,
    });
    expect(server.requested).toEqual([]);
    server.close();
  });

  it('are joined with their pages, and failures are counted', async () => {
    const server = await serve({
      '/a.png': { body: await image(1) },
      '/closed.png': { body: await image(2), headers: { 'x-robots-tag': 'noai' } },
      '/small.png': { body: await image(3, 20, 20) },
      '/small-2x.png': { body: await image(4) },
    });
    const work = new WorkFolder(folder());
    const input = folder();
    const images = ['a.png', 'closed.png', 'gone.png'].map((name) => `<img src="${server.host}/${name}">`).join('');
    const sizes = `<img src="${server.host}/small.png" srcset="${server.host}/small.png 2x, ${server.host}/small-2x.png 1x">`;
    writeFileSync(path.join(input, 'a.html'), html(`<p>${prose(1)}</p>${images}`));
    writeFileSync(path.join(input, 'b.html'), html(`<p>${prose(2)}</p>${sizes}<img src="${server.host}/a.png">`));
    const fetcher = new ImageFetcher({ isPublic: (address) => address === '127.0.0.1' });
    const extractor = await UnitExtractor.open({ preset: 'm3w', fetchImages: true }, work, { fetcher });
    const [unit] = await gather(planUnits([input]));
    await extractor.extract(unit!, work.unit(0, 0));
    const missing = await gather((await Assembly.begin(work, presets.m3w, [1])).missing());
    expect(missing).toEqual([
      {
        kind: 'fetch',
        images: [['a.png'], ['closed.png'], ['gone.png'], ['small.png', 'small-2x.png']].map((names) =>
          names.map((name) => `${server.host}/${name}`),
        ),
      },
    ]);
    await extractor.extract(missing[0]!, work.unit(1, 0));
    const out = folder();
    const result = await (await Assembly.begin(work, presets.m3w, [1, 1])).write(out);
    expect(result).toMatchObject({ documents: 2, images: 3 });
    expect(result.dropped).toEqual({ 'fetch: opted out': 1, 'fetch: status 404': 1, 'image: not available': 2 });
    expect(read(out).map(({ parts }) => parts.filter((part: object) => 'image' in part).length)).toEqual([1, 2]);
    expect(server.requested.filter((url) => url === '/a.png')).toHaveLength(1);
    await fetcher.close();
    server.close();
  });
});
