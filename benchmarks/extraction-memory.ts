/**
 * Extracts a million generated pages and prints the memory use during the run: `npm run extraction-memory -- [--pages
 * 1000000] [--workers 2] [--folder DIR]`. The archives take 0.4 KB per page on disk, the work folder 2 KB.
 */
import { createWriteStream, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { extractPages } from '@flamingo-ts/data-extraction';
import { pageOf, image, warcRecord } from '../packages/data-extraction/test/sample-pages';

const { values } = parseArgs({
  options: {
    pages: { type: 'string', default: '1000000' },
    workers: { type: 'string', default: '2' },
    folder: { type: 'string' },
  },
});
const pages = Number(values.pages);
const folder = values.folder ?? mkdtempSync(path.join(tmpdir(), 'flamingo-million-'));
const ARCHIVES = 10;
const IMAGES = 1000;

const mib = () => process.memoryUsage().rss / 2 ** 20;

const record = (...response: Parameters<typeof warcRecord>) => gzipSync(warcRecord(...response), { level: 1 });

async function generate(input: string): Promise<void> {
  mkdirSync(input, { recursive: true });
  let number = 0;
  for (let archive = 0; archive < ARCHIVES; archive++) {
    const file = createWriteStream(path.join(input, `${archive}.warc.gz`));
    const write = async (bytes: Buffer) => {
      if (!file.write(bytes)) await once(file, 'drain');
    };
    for (let i = archive; i < IMAGES; i += ARCHIVES) {
      await write(record(`https://example.org/p${i}.png`, 'image/png', await image(i, 80, 64)));
    }
    for (; number < ((archive + 1) * pages) / ARCHIVES; number++) {
      const html = pageOf(number, `/p${number % IMAGES}.png`);
      await write(record(`https://example.org/${number}/`, 'text/html', Buffer.from(html)));
    }
    file.end();
    await once(file, 'close');
  }
}

const input = path.join(folder, 'input');
const started = performance.now();
const log = (what: string) =>
  process.stdout.write(
    `${((performance.now() - started) / 1000).toFixed(0).padStart(6)} s ${mib().toFixed(0).padStart(6)} MiB  ${what}\n`,
  );
log('start');
await generate(input);
log(`${pages} pages written`);
let highest = 0;
const watch = setInterval(() => (highest = Math.max(highest, mib())), 200);
let next = 0;
const manifest = await extractPages({
  inputs: [input],
  out: path.join(folder, 'out'),
  workers: Number(values.workers),
  onProgress: ({ units, ofUnits, pages: done }) => {
    if (units < next * ofUnits) return;
    log(`${units} of ${ofUnits} units, ${done} pages; peak since the last line ${highest.toFixed(0)} MiB`);
    [next, highest] = [next + 0.1, 0];
  },
});
log(
  `merged: ${manifest.documents} documents from ${manifest.pages} pages; peak during the merge ${highest.toFixed(0)} MiB`,
);
clearInterval(watch);
if (values.folder === undefined) rmSync(folder, { recursive: true });
