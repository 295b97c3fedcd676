import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { afterAll, expect, it, vi } from 'vitest';
import { gather, warcRecord } from '../../test/sample-pages';
import { IMAGE_LIMITS } from '../images/image-info';
import { planUnits } from './sources';
import { readWarc } from './warc';

const scratch = mkdtempSync(path.join(tmpdir(), 'warc-'));
afterAll(() => rmSync(scratch, { recursive: true }));

it('mutated archives come to an end, and give no more than they hold', { timeout: 3_600_000 }, async () => {
  // The parser tells of each record that is cut.
  vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  const html = Buffer.from('<p>Some words that stand on a page of their own.</p>'.repeat(20));
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
        const answers = await gather(readWarc(file, unit.start, unit.end)).catch((error: unknown) => {
          expect(error).toBeInstanceOf(Error);
          return [];
        });
        for (const { bytes: body } of answers) expect(body!.length).toBeLessThan(IMAGE_LIMITS.bytes);
      }
    }),
    { numRuns: Number(process.env['FLAMINGO_FUZZ_RUNS'] ?? 300) },
  );
});
