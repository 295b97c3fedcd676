import {
  buildSample,
  openDataset,
  type Document,
  type EncodedImage,
  type MediaRef,
  type OpenDatasetOptions,
  type Sample,
} from '@flamingo-ts/data-mixtures';
import { seededStream } from '@flamingo-ts/random';
import sharp from 'sharp';
import { counted, imagesOf } from './data-check';
import { escapeHtml } from '../report/html-page';
import { type ReadableTokenizer } from './word-tokenizer';

/** Longer side of the images on the page. */
const THUMBNAIL = 150;
/** As when training: what unfolds to more is not decoded. */
const MAX_PIXELS = 2 ** 26;
const TIMEOUT_SECONDS = 10;
const MAX_FRAMES = 8;

export interface InspectOptions extends OpenDatasetOptions {
  /** Documents shown. */
  readonly samples: number;
  /** The first of them. */
  readonly from: number;
  readonly maxTokens: number;
  readonly seed: number;
}

/** A page that needs nothing but itself: documents as the model is shown them. */
export async function inspectData(
  path: string,
  readable: ReadableTokenizer,
  { samples, from, maxTokens, seed, ...options }: InspectOptions,
): Promise<string> {
  const dataset = await openDataset(path, options);
  const articles: string[] = [];
  for (let i = from; i < Math.min(from + samples, dataset.length); i++) {
    const document = await dataset.get(i);
    const where = dataset.where(i);
    if ('rejected' in document) {
      const why = `${document.rejected}${document.detail ? `: ${document.detail}` : ''}`;
      articles.push(article(where, 'left out', `<p class="none">${escapeHtml(why)}</p>`));
      continue;
    }
    if (imagesOf(document).length === 0 && document.kind === 'page') {
      const text = document.parts.map((part) => ('text' in part ? part.text : '')).join('');
      articles.push(article(where, 'page of text alone', `<p>${escapeHtml(text)}</p>${aboutHtml(document)}`));
      continue;
    }
    const sample = buildSample(document, readable.tokenizer, { maxTokens }, seededStream(seed, 'inspect', i));
    if ('rejected' in sample) {
      articles.push(article(where, `${document.kind}, no sample`, `<p class="none">${sample.rejected}</p>`));
      continue;
    }
    const learned = sample.lossMask.reduce((a, b) => a + b, 0);
    const facts = `${document.kind}, ${sample.tokens.length} tokens, ${learned} learned, ${counted(sample.media.length, 'image')}`;
    articles.push(article(where, facts, (await sampleHtml(sample, readable)) + aboutHtml(document)));
  }
  const shown = `${articles.length} of ${dataset.length} documents, from number ${from}; tokens: ${readable.name}, at most ${maxTokens}`;
  return page(path, shown, articles);
}

function article(where: string, facts: string, body: string): string {
  return `<article><h2>${escapeHtml(where)}</h2><p class="facts">${escapeHtml(facts)}</p>${body}</article>`;
}

/** Tokens in reading order, each image where its mark stands. */
async function sampleHtml(
  { tokens, mediaIndex, lossMask, media }: Sample,
  readable: ReadableTokenizer,
): Promise<string> {
  const { special } = readable.tokenizer;
  const marks = new Set<number>([special.bos ?? -1, special.eos, special.image, special.endOfChunk]);
  let seen = 0;
  const parts: string[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i]!;
    const looks = mediaIndex[i]!;
    const isMark = marks.has(id);
    const classes = [`m${colour(looks)}`, isMark ? 'mark' : `t${i % 2}`, lossMask[i] === 1 ? 'learned' : 'given'];
    const title = `token ${i}, id ${id}, ${looks === 0 ? 'sees no image' : `sees image ${looks}`}, ${lossMask[i] === 1 ? 'learned' : 'not learned'}`;
    const text = escapeHtml(readable.textOf(id)).replaceAll('\n', '⏎\n');
    const index = isMark && looks > 0 ? `<sub>${looks}</sub>` : '';
    parts.push(`<span class="${classes.join(' ')}" title="${title}">${text}${index}</span>`);
    if (id === special.image) parts.push(await imageHtml(media[seen]!, ++seen));
  }
  return `<div class="tokens">${parts.join('')}</div>`;
}

/** Images and the tokens that see them share one of six colours; 0 is no image. */
const colour = (index: number) => (index === 0 ? 0 : 1 + ((index - 1) % 6));

async function imageHtml(media: MediaRef, number: number): Promise<string> {
  const images = 'image' in media ? [media.image] : 'frames' in media ? media.frames.slice(0, MAX_FRAMES) : [];
  const shown = await Promise.all(images.map(thumbnail));
  const caption = [`${number}`, media.name, media.alt && `“${media.alt}”`].filter(Boolean).join(' · ');
  return `<figure class="m${colour(number)}">${shown.join('')}<figcaption>${escapeHtml(caption)}</figcaption></figure>`;
}

async function thumbnail(image: EncodedImage): Promise<string> {
  try {
    const small = await sharp(image, { limitInputPixels: MAX_PIXELS })
      .timeout({ seconds: TIMEOUT_SECONDS })
      .autoOrient()
      .resize({ width: THUMBNAIL, height: THUMBNAIL, fit: 'inside', withoutEnlargement: true })
      .flatten({ background: '#ffffff' })
      .jpeg()
      .toBuffer();
    return `<img alt="" src="data:image/jpeg;base64,${small.toString('base64')}">`;
  } catch (error) {
    return `<span class="none">unreadable: ${escapeHtml((error as Error).message)}</span>`;
  }
}

function aboutHtml({ about }: Document): string {
  if (!about) return '';
  return `<details><summary>about</summary><pre>${escapeHtml(JSON.stringify(about, null, 2))}</pre></details>`;
}

/** What the pages say is escaped; the policy keeps a browser from loading or running anything all the same. */
function page(path: string, shown: string, articles: readonly string[]): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>${escapeHtml(path)}</title>
<style>
body{font:15px/1.7 system-ui,sans-serif;color:#222;max-width:980px;margin:0 auto;padding:1.5rem}
h1{font-size:1.3rem;margin:0}h2{font-size:.95rem;margin:0;overflow-wrap:anywhere}
article{border-top:1px solid #ddd;padding:1rem 0}.facts,.note{color:#555;margin:.1rem 0 .5rem;font-size:.9rem}
.tokens{white-space:pre-wrap;overflow-wrap:anywhere}.tokens span{border-bottom:3px solid var(--m);padding:1px 0}
.t0{background:#f1f1f1}.t1{background:#e2e6ec}.given{color:#9a9a9a}.learned{color:#111;font-weight:600}
.mark{font:12px/1 ui-monospace,monospace;background:var(--m);color:#fff!important;border-radius:4px;padding:1px 5px!important;margin:0 2px}
.mark.given{opacity:.65}.none{color:#b3261e}
.m0{--m:#c4c4c4}.m1{--m:#0b6e99}.m2{--m:#d9730d}.m3{--m:#0f7b6c}.m4{--m:#ad1a72}.m5{--m:#6940a5}.m6{--m:#8a6d3b}
figure{display:inline-block;vertical-align:middle;margin:4px;padding:3px;border:3px solid var(--m);border-radius:6px;max-width:100%}
figure img{display:inline-block;margin-right:2px;vertical-align:top}figcaption{font-size:.75rem;line-height:1.2;color:#444;max-width:330px;overflow-wrap:anywhere;white-space:normal}
details{font-size:.85rem;margin-top:.5rem}pre{white-space:pre-wrap;overflow-wrap:anywhere}
</style></head><body>
<h1>${escapeHtml(path)}</h1><p class="facts">${escapeHtml(shown)}</p>
<p class="note">Each token has a ground of its own. <b>Dark</b>: learned; <span class="given">grey</span>: given.
The line under a token has the colour of the image it sees; a grey line: none. Point at a token for its id.</p>
${articles.join('\n')}
</body></html>
`;
}
