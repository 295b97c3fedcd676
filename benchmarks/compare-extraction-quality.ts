/**
 * Measures precision and recall of extraction on 30 pages of Debian's documentation with hand-labeled ranges of blocks:
 *
 *     npm run compare-extraction-quality -- [--packages DIR] [--python PYTHON]
 *
 * The pages come from Debian packages, which `apt-get download` fetches and `dpkg -x` unpacks to DIR; only the fingerprints
 * of their content blocks are in this repository (`compare-extraction-labels.json`). Pages whose SHA-256 differs, because
 * Debian has another version now, are skipped and named. A Python with Resiliparse adds its extractor to the table.
 *
 * A block counts as extracted if the text contains its letters and digits, in the order of the page. VERBOSE=1 lists
 * the content blocks that are lost and the other blocks that are kept. Precision and recall are weighted by words: of
 * 100 words extracted, how many are content; of 100 words of content, how many are extracted.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { extractPage } from '@flamingo-ts/data-extraction';
import { Parser } from 'htmlparser2';

interface LabeledPage {
  readonly package: string;
  readonly version: string;
  readonly path: string;
  readonly generator: string;
  readonly sha256: string;
  /** Fingerprints of the blocks that are content, in the order of the page. */
  readonly content: string;
}

interface Block {
  readonly text: string;
  readonly words: number;
  readonly fingerprint: string;
}

const LINES = new Set(
  `address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
   h5 h6 header hr legend li main nav ol p pre section summary table tbody td tfoot th thead tr ul`.split(/\s+/),
);
const NON_TEXT = new Set(['script', 'style', 'title', 'template', 'noscript', 'button', 'select', 'textarea', 'svg']);

/** The blocks of a page: all runs of text between block elements. */
export function blocksOf(html: string): Block[] {
  const blocks: Block[] = [];
  let text = '';
  let nonTextDepth = 0;
  const end = () => {
    const key = comparable(text);
    const fingerprint = createHash('sha256').update(key).digest('hex').slice(0, 8);
    if (key !== '') blocks.push({ text, words: text.trim().split(/\s+/).length, fingerprint });
    text = '';
  };
  const parser = new Parser({
    onopentag: (name) => {
      if (NON_TEXT.has(name)) nonTextDepth++;
      if (LINES.has(name)) end();
    },
    onclosetag: (name) => {
      if (NON_TEXT.has(name)) nonTextDepth--;
      if (LINES.has(name)) end();
    },
    ontext: (piece) => {
      if (nonTextDepth === 0) text += piece;
    },
  });
  parser.end(html);
  end();
  return blocks;
}

/** Keeps only letters and digits: extractors differ in spacing, bullets and the form of exponents. */
function comparable(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '');
}

const MAX_PLACES = 20;
/** A shorter block (a label, a number) counts only right after another one: alone, it also matches within words. */
const SHORT = 12;

/** Finds which blocks an extracted text contains: the longest chain of blocks in the order of both. */
export function foundIn(blocks: readonly Block[], extracted: string): boolean[] {
  const text = comparable(extracted);
  const places: { block: number; start: number; end: number; sum: number; before: number }[] = [];
  let best = -1;
  blocks.forEach((each, block) => {
    const key = comparable(each.text);
    const known = places.length;
    for (
      let start = text.indexOf(key), n = 0;
      start !== -1 && n < MAX_PLACES;
      start = text.indexOf(key, start + 1), n++
    ) {
      let [sum, before] = [0, -1];
      let isNear = start === 0;
      for (let i = 0; i < known; i++) {
        const place = places[i]!;
        if (place.end > start || place.sum < sum || (key.length < SHORT && place.end !== start)) continue;
        [sum, before, isNear] = [place.sum, i, true];
      }
      if (key.length < SHORT && !isNear) continue;
      places.push({ block, start, end: start + key.length, sum: sum + key.length, before });
      if (best === -1 || places.at(-1)!.sum >= places[best]!.sum) best = places.length - 1;
    }
  });
  const found = blocks.map(() => false);
  for (let i = best; i !== -1; i = places[i]!.before) found[places[i]!.block] = true;
  return found;
}

interface Score {
  extracted: number;
  content: number;
  both: number;
}

function addScore(
  score: Score,
  blocks: readonly Block[],
  isContent: readonly boolean[],
  found: readonly boolean[],
): void {
  blocks.forEach(({ words }, i) => {
    if (found[i]) score.extracted += words;
    if (isContent[i]) score.content += words;
    if (found[i] && isContent[i]) score.both += words;
  });
}

/** Labels the blocks of a page by the fingerprints of its content, which are in page order. */
export function labelsOf(blocks: readonly Block[], content: string): boolean[] {
  const left = content.split(' ');
  return blocks.map(({ fingerprint }) => {
    if (left[0] !== fingerprint) return false;
    left.shift();
    return true;
  });
}

const RESILIPARSE = `
import json, sys
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
for name in json.load(sys.stdin):
    data = open(name, 'rb').read()
    html = bytes_to_str(data, detect_encoding(data))
    print(json.dumps(extract_plain_text(html, main_content=True, alt_texts=False, links=False, form_fields=False)))
`;

function ours(file: string): string {
  const { parts } = extractPage(readFileSync(file), { url: 'https://example.org/' });
  return parts.map((part) => ('text' in part ? part.text : part.image.caption)).join('\n');
}

function main(): void {
  const { values } = parseArgs({
    options: { packages: { type: 'string' }, python: { type: 'string', default: process.env['FLAMINGO_PEER_PYTHON'] } },
  });
  const labels = JSON.parse(
    readFileSync(path.join(import.meta.dirname, 'compare-extraction-labels.json'), 'utf8'),
  ) as LabeledPage[];
  const folder = path.resolve(values.packages ?? mkdtempSync(path.join(tmpdir(), 'debian-pages-')));
  mkdirSync(folder, { recursive: true });
  for (const name of new Set(labels.map((page) => page.package))) {
    if (existsSync(path.join(folder, name))) continue;
    execFileSync('bash', ['-c', `apt-get download ${name} && dpkg -x ${name}_*.deb ${name}`], { cwd: folder });
  }
  const pages = labels.filter((page) => {
    const file = path.join(folder, page.package, page.path);
    const isSame = existsSync(file) && createHash('sha256').update(readFileSync(file)).digest('hex') === page.sha256;
    if (!isSame) console.log(`skipped: ${page.package} ${page.path} differs from version ${page.version}`);
    return isSame;
  });
  const files = pages.map((page) => path.join(folder, page.package, page.path));
  const texts: Record<string, string[]> = { ours: files.map(ours) };
  if (values.python) {
    const options = { input: JSON.stringify(files), encoding: 'utf8', maxBuffer: 2 ** 28 } as const;
    const lines = execFileSync(values.python, ['-c', RESILIPARSE], options).trim().split('\n');
    texts['resiliparse'] = lines.map((line) => JSON.parse(line) as string);
  }
  const rows = Object.entries(texts).map(([name, extracted]) => {
    const total: Score = { extracted: 0, content: 0, both: 0 };
    pages.forEach((page, i) => {
      const blocks = blocksOf(readFileSync(files[i]!, 'utf8'));
      const isContent = labelsOf(blocks, page.content);
      const own: Score = { extracted: 0, content: 0, both: 0 };
      const found = foundIn(blocks, extracted[i]!);
      addScore(own, blocks, isContent, found);
      addScore(total, blocks, isContent, found);
      if (process.env['VERBOSE']) {
        console.log(`${name} ${page.path}: ${own.both}/${own.extracted} ${own.both}/${own.content}`);
        blocks.forEach((block, k) => {
          if (found[k] !== isContent[k])
            console.log(`   ${isContent[k] ? 'lost' : 'kept'}: ${block.text.trim().slice(0, 100)}`);
        });
      }
    });
    const [precision, recall] = [total.both / total.extracted, total.both / total.content];
    return [name, precision, recall, (2 * precision * recall) / (precision + recall)] as const;
  });
  console.log(`${pages.length} pages`);
  console.log('               precision  recall      F1');
  for (const [name, ...values] of rows)
    console.log(name.padEnd(14) + values.map((v) => v.toFixed(3).padStart(9)).join(''));
}

if (process.argv[1] === import.meta.filename) main();
