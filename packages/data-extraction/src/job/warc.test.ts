import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { afterAll, expect, it } from 'vitest';
import { gather, warcRecord } from '../../test/sample-pages';
import { IMAGE_LIMITS } from '../images/image-info';
import { planUnits } from './sources';
import { readWarc } from './warc';

const scratch = mkdtempSync(path.join(tmpdir(), 'warc-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it('reads mutated archives to the end, and yields no oversized bodies', { timeout: 3_600_000 }, async () => {
  const html = Buffer.from('<p>Some words that have a page of their own.</p>'.repeat(20));
  const bodies = [html, gzipSync(html), Buffer.alloc(3000, 7)];
  const records = [
    warcRecord('https://example.org/a', 'text/html', bodies[0]!),
    warcRecord('https://example.org/b', 'text/html', bodies[1]!, 'Content-Encoding: gzip\r\n'),
    warcRecord('https://example.org/c.png', 'image/png', bodies[2]!),
  ];
  const wholes = [
    { name: 'a.warc', bytes: Buffer.concat(records) },
    { name: 'a.warc.gz', bytes: Buffer.concat(records.map((record) => gzipSync(record))) },
    { name: 'b.warc.gz', bytes: gzipSync(Buffer.concat(records)) },
  ];
  const change = fc.record({
    kind: fc.constantFrom('flip', 'cut', 'repeat', 'end'),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 1, max: 400 }),
  });
  const changes = fc.array(change, { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...wholes), changes, async (whole, changes) => {
      let bytes = Buffer.from(whole.bytes);
      for (const { kind, at: share, length } of changes) {
        const at = Math.floor(share * bytes.length);
        const end = Math.min(bytes.length, at + length);
        if (kind === 'flip') for (let i = at; i < end; i += 53) bytes[i]! ^= 1 + (i % 255);
        else if (kind === 'cut') bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
        else if (kind === 'repeat') bytes = Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
        else bytes = bytes.subarray(0, at);
      }
      const file = path.join(scratch, whole.name);
      writeFileSync(file, bytes);
      for (const unit of await gather(planUnits([file], { warcBytes: 1000 }))) {
        if (unit.kind !== 'warc') continue;
        const answers = await gather(readWarc(file, unit.start, unit.end, () => {})).catch((error: unknown) => {
          expect(error).toBeInstanceOf(Error);
          return [];
        });
        for (const { body } of answers) expect(body.length).toBeLessThan(IMAGE_LIMITS.bytes);
      }
    }),
    { numRuns: Number(process.env['FLAMINGO_FUZZ_RUNS'] ?? 300) },
  );
});

const html = Buffer.from(`<!doctype html><p>${'Some words of a page. '.repeat(40)}</p>`);
const png = Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), Buffer.alloc(100, 1)]);
const url = 'https://example.org/a';

async function read(bytes: Buffer, name = 'read.warc') {
  const file = path.join(scratch, name);
  writeFileSync(file, bytes);
  const damage: string[] = [];
  const found = await gather(readWarc(file, 0, bytes.length, (what) => damage.push(what)));
  return { found: found.map(({ kind, body }) => [kind, typeof body === 'string' ? body : Buffer.from(body)]), damage };
}

it.each<[string, Buffer, string]>([
  ['gzip', gzipSync(html), 'Content-Encoding: gzip\r\n'],
  ['x-gzip', gzipSync(html), 'Content-Encoding: X-GZIP\r\n'],
  ['deflate', deflateSync(html), 'Content-Encoding: deflate\r\n'],
  ['raw deflate', deflateRawSync(html), 'Content-Encoding: deflate\r\n'],
  ['brotli', brotliCompressSync(html), 'Content-Encoding: br\r\n'],
  ['two encodings', gzipSync(brotliCompressSync(html)), 'Content-Encoding: br, gzip\r\n'],
  ['gzip that the crawler has already removed', html, 'Content-Encoding: gzip\r\n'],
  ['brotli that the crawler has already removed', html, 'Content-Encoding: br\r\n'],
  [
    'chunks',
    Buffer.concat([
      Buffer.from('5\r\n'),
      html.subarray(0, 5),
      Buffer.from(`\r\n${(html.length - 5).toString(16)};a=b\r\n`),
      html.subarray(5),
      Buffer.from('\r\n0\r\n\r\n'),
    ]),
    'Transfer-Encoding: chunked\r\n',
  ],
  ['chunks that the crawler has already removed', html, 'Transfer-Encoding: chunked\r\n'],
])('decodes a page with %s', async (_, body, headers) => {
  expect(await read(warcRecord(url, 'text/html', body, headers))).toEqual({ found: [['page', html]], damage: [] });
});

it('names an encoding that it cannot decode, and uses the start of a truncated body', async () => {
  const unknown = warcRecord(url, 'text/html', gzipSync(html), 'Content-Encoding: zstd\r\n');
  expect((await read(unknown)).found).toEqual([['page', 'unknown content encoding']]);
  const damaged = warcRecord(url, 'text/html', Buffer.from('\x1f\x8bno', 'latin1'), 'Content-Encoding: gzip\r\n');
  expect((await read(damaged)).found).toEqual([['page', 'damaged content encoding']]);
  const whole = Buffer.from(`<p>${Array.from({ length: 9000 }, (_, i) => i * 7919).join(' ')}</p>`);
  const cut = gzipSync(whole).subarray(0, 9000);
  const [[kind, body]] = (await read(warcRecord(url, 'text/html', cut, 'Content-Encoding: gzip\r\n'))).found as [
    [string, Buffer],
  ];
  expect([kind, whole.subarray(0, body.length).equals(body), body.length > 10_000]).toEqual(['page', true, true]);
});

it.each(['application/octet-stream', 'binary/octet-stream', 'image/png', ''])(
  'recognizes an image of type "%s"',
  async (type) => {
    expect((await read(warcRecord(url, type, png))).found).toEqual([['image', png]]);
  },
);

it('recognizes a page without a type', async () => {
  expect((await read(warcRecord(url, '', html))).found).toEqual([['page', html]]);
  expect((await read(warcRecord(url, 'application/json', html))).found).toEqual([]);
});

it('reads archives with LF line ends, wrong file names, or records without an HTTP header', async () => {
  const record = warcRecord(url, 'text/html', html);
  const split = record.indexOf('HTTP/1.1');
  const lf = Buffer.concat([
    Buffer.from(record.subarray(0, split).toString().replaceAll('\r', '')),
    record.subarray(split, -4),
    Buffer.from('\n\n'),
  ]);
  expect(await read(Buffer.concat([lf, lf]))).toEqual({
    found: [
      ['page', html],
      ['page', html],
    ],
    damage: [],
  });
  expect(await read(gzipSync(record), 'a.warc')).toMatchObject({ found: [['page', html]], damage: [] });
  expect(await read(record, 'a.warc.gz')).toMatchObject({ found: [['page', html]], damage: [] });
  const bare = Buffer.concat([
    Buffer.from(
      `WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: <${url}>\r\nContent-Length: ${html.length}\r\n\r\n`,
    ),
    html,
  ]);
  expect(await read(Buffer.concat([bare, Buffer.from('\r\n\r\n'), record]))).toEqual({
    found: [
      ['page', html],
      ['page', html],
    ],
    damage: [],
  });
});

it('reports damage and resumes at the next record', async () => {
  const record = warcRecord(url, 'text/html', html);
  const page = ['page', html];
  expect(await read(record.subarray(0, -100))).toEqual({ found: [], damage: ['the last record is truncated'] });
  expect(await read(Buffer.concat([record, record.subarray(0, 60)]))).toMatchObject({
    found: [page],
    damage: [expect.stringMatching(/Content-Length/)],
  });
  expect(await read(Buffer.from('<html>404 not found</html>'))).toEqual({
    found: [],
    damage: ['expected a record (WARC/1.0), got "<html>404 not found</html>"'],
  });
  expect((await read(Buffer.alloc(0))).damage).toEqual(['expected a record (WARC/1.0), got none']);
  const short = Buffer.from(record.toString('latin1').replace(/Content-Length: \d+/, 'Content-Length: 200'), 'latin1');
  expect(await read(Buffer.concat([short, record]))).toMatchObject({
    found: [['page', {}], page],
    damage: [expect.stringMatching(/got ".*Some words/)],
  });
  const none = Buffer.from(record.toString('latin1').replace(/Content-Length: \d+/, 'X: 1'), 'latin1');
  expect(await read(Buffer.concat([none, record]))).toEqual({
    found: [page],
    damage: ['expected a Content-Length, got none'],
  });
});

it('splits archives whose lines end in LF', async () => {
  const record = Buffer.from(warcRecord(url, 'text/html', html).toString().replaceAll('\r', ''));
  const whole = Buffer.from(
    record.toString().replace(/Content-Length: \d+/, `Content-Length: ${record.length - record.indexOf('HTTP/') - 2}`),
  );
  const file = path.join(scratch, 'lf.warc');
  writeFileSync(file, Buffer.concat([whole, whole, whole, whole]));
  const units = await gather(planUnits([file], { warcBytes: 100 }));
  expect(units.length).toBe(4);
  for (const unit of units) {
    if (unit.kind !== 'warc') continue;
    const damage: string[] = [];
    const found = await gather(readWarc(file, unit.start, unit.end, (what) => damage.push(what)));
    expect([found.length, damage]).toEqual([1, []]);
  }
});
