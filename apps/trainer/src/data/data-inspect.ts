import { existsSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import {
  buildSample,
  evenlySpaced,
  ImageDecoder,
  openDataset,
  type Document,
  type EncodedImage,
  type MediaRef,
  type OpenDatasetOptions,
  type Sample,
  type SampleOptions,
} from '@flamingo-ts/data-mixtures';
import { seededStream } from '@flamingo-ts/random';
import sharp from 'sharp';
import type { Config } from '../config/config';
import { escapeHtml, htmlPage } from '../report/html-page';
import { counted, imagesOf, textsOf } from './data-check';
import { dataKindOf } from './data-kinds';
import { datasetNames, type DatasetName } from './training-data';
import { readableTokenizer, wordTokenizer, type ReadableTokenizer } from './word-tokenizer';

/** Longer side of the images on the page, in pixels. */
const THUMBNAIL = 150;
/** Limits of decoding, as in training. */
const MAX_PIXELS = 2 ** 26;
const TIMEOUT_SECONDS = 10;
const DEFAULT_FRAMES = 8;

/** How samples are built and images shown. */
export interface InspectConfig {
  /** Where the configuration comes from, for the header of the page. */
  readonly source: string;
  readonly sample: Required<Pick<SampleOptions, 'maxTokens' | 'maxMedia' | 'pNext' | 'leadingSpace'>>;
  readonly framesPerClip: number;
  /** Size and padding of the model's input. Without it the page shows the whole images. */
  readonly input?: { readonly imageSize: number; readonly padding: readonly [number, number, number] };
  readonly seed: number;
  readonly tokenizer: ReadableTokenizer;
}

/** The defaults of `buildSample`, for data without a configuration. */
export function defaultInspectConfig(): InspectConfig {
  return {
    source: 'Defaults. Pass --config FILE to use the configuration of your training.',
    sample: { maxTokens: 256, maxMedia: 5, pNext: 0.5, leadingSpace: 0.5 },
    framesPerClip: DEFAULT_FRAMES,
    seed: 0,
    tokenizer: wordTokenizer(),
  };
}

/**
 * The configuration with which training reads a dataset.
 *
 * @param file    of the configuration, for the page and errors
 * @param dataset name in `flamingo.datasets`; defaults to the file name of `path`, or to the only dataset
 */
export function inspectConfigOf(config: Config, file: string, path: string, dataset?: string): InspectConfig {
  const { datasets, framesPerClip } = config.flamingo;
  const names = datasetNames.filter((name) => datasets[name]);
  const guess = basename(path, extname(path));
  const name = (dataset ??
    names.find((n) => n === guess) ??
    (names.length === 1 ? names[0] : undefined)) as DatasetName;
  const datasetConfig = datasets[name];
  if (!datasetConfig) {
    throw new Error(
      `data inspect: expected --dataset to be one of ${names.join(', ')}, the datasets of ${file}, got ${name ?? 'nothing'}.`,
    );
  }
  const { maxTokens, maxMedia, pNext, leadingSpace } = datasetConfig;
  const tokenizer = join(config.lm.pretrained ?? join(config.out, 'lm'), 'tokenizer.json');
  const isTrained = existsSync(tokenizer);
  const words = isTrained ? '' : ` There is no ${tokenizer} yet, so each word is a token.`;
  return {
    source: `Configuration of dataset ${name} in ${file}.${words}`,
    sample: { maxTokens, maxMedia, pNext, leadingSpace },
    framesPerClip: name === 'clips' ? framesPerClip : 1,
    input: { imageSize: config.vision.model.imageSize, padding: dataKindOf(config.data).padding },
    seed: config.seed,
    tokenizer: isTrained ? readableTokenizer(tokenizer) : wordTokenizer(),
  };
}

export interface InspectOptions extends OpenDatasetOptions {
  /** Number of documents to show. */
  readonly samples: number;
  /** Index of the first document. */
  readonly from: number;
}

/** Returns a self-contained HTML page that shows documents as the model sees them in training. */
export async function inspectData(
  path: string,
  config: InspectConfig,
  { samples, from, ...options }: InspectOptions,
): Promise<string> {
  const dataset = await openDataset(path, options);
  const { tokenizer, sample, input, framesPerClip, seed, source } = config;
  const images = new Thumbnails(input, framesPerClip);
  const articles: string[] = [];
  try {
    const end = Math.min(from + samples, dataset.length);
    for (let i = from; i < end; i++) {
      const random = seededStream(seed, 'inspect', i);
      articles.push(await documentHtml(await dataset.get(i), dataset.where(i), config, images, random));
    }
  } finally {
    await images.close();
  }
  const shown = [
    articles.length === 0
      ? `No documents from ${from} on; the dataset has ${dataset.length}`
      : `Documents ${from} to ${from + articles.length - 1} of ${dataset.length}, broken ones included`,
    `maxTokens ${sample.maxTokens}, maxMedia ${sample.maxMedia}, pNext ${sample.pNext}, leadingSpace ${sample.leadingSpace}`,
    `seed ${seed}, tokenizer: ${tokenizer.name}`,
    input
      ? `images of ${input.imageSize} x ${input.imageSize} pixels, ${counted(framesPerClip, 'frame')} per image or clip`
      : `whole images, up to ${counted(framesPerClip, 'frame')} per clip`,
  ];
  return htmlPage({
    title: path,
    style: STYLE,
    body: [
      `<h1>${escapeHtml(path)}</h1>`,
      `<p class="note">${escapeHtml(source)}<br>${shown.map(escapeHtml).join('<br>')}</p>`,
      `<p class="note">Each background is one token. <b>Dark</b> tokens count in the loss; <span class="given">gray</span> ones do not.
The line below a token has the color of the image that the token attends to; gray means none. Hover over a token for its id.</p>`,
      ...articles,
    ],
  });
}

type Read = Awaited<ReturnType<Awaited<ReturnType<typeof openDataset>>['get']>>;

async function documentHtml(
  document: Read,
  where: string,
  { tokenizer, sample: options }: InspectConfig,
  images: Thumbnails,
  random: ReturnType<typeof seededStream>,
): Promise<string> {
  if ('rejected' in document) {
    const why = `${document.rejected}${document.detail ? `: ${document.detail}` : ''}`;
    return article(where, 'broken', `<p class="none">${escapeHtml(why)}</p>`);
  }
  if (imagesOf(document).length === 0 && document.kind === 'page') {
    return article(where, 'page, text only', `<p>${escapeHtml(textsOf(document).join(''))}</p>${aboutHtml(document)}`);
  }
  const sample = buildSample(document, tokenizer.tokenizer, options, random);
  if ('rejected' in sample) {
    return article(where, `${document.kind}, no sample`, `<p class="none">${sample.rejected}</p>`);
  }
  const learned = sample.lossMask.reduce((a, b) => a + b, 0);
  const facts = `${document.kind}, ${counted(sample.tokens.length, 'token')}, ${learned} in the loss, ${counted(sample.media.length, 'image')}`;
  return article(where, facts, (await sampleHtml(sample, tokenizer, images)) + aboutHtml(document));
}

function article(where: string, facts: string, body: string): string {
  return `<article><h2>${escapeHtml(where)}</h2><p class="note">${escapeHtml(facts)}</p>${body}</article>`;
}

/** Tokens in reading order, with each image after its `<image>` token. */
async function sampleHtml(
  { tokens, mediaIndex, lossMask, media }: Sample,
  readable: ReadableTokenizer,
  images: Thumbnails,
): Promise<string> {
  const { special } = readable.tokenizer;
  const specialIds = new Set<number>([special.bos ?? -1, special.eos, special.image, special.endOfChunk]);
  let seen = 0;
  const parts: string[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i]!;
    const index = mediaIndex[i]!;
    const isSpecial = specialIds.has(id);
    const isLearned = lossMask[i] === 1;
    const classes = [`m${color(index)}`, isSpecial ? 'special' : `t${i % 2}`, isLearned ? 'learned' : 'given'];
    const attends = index === 0 ? 'attends to no image' : `attends to image ${index}`;
    const title = `token ${i}, id ${id}, ${attends}, ${isLearned ? 'in the loss' : 'not in the loss'}`;
    const text = escapeHtml(readable.textOf(id)).replaceAll('\n', '⏎\n');
    const number = isSpecial && index > 0 ? `<sub>${index}</sub>` : '';
    parts.push(`<span class="${classes.join(' ')}" title="${title}">${text}${number}</span>`);
    if (id === special.image) parts.push(await images.figure(media[seen]!, ++seen));
  }
  return `<div class="tokens">${parts.join('')}</div>`;
}

/** Images and the tokens that attend to them share one of six colors; 0 is no image. */
const color = (index: number) => (index === 0 ? 0 : 1 + ((index - 1) % 6));

/** Images for the page: as the vision encoder gets them if the size of its input is known, else small versions. */
class Thumbnails {
  private readonly decoder: ImageDecoder | undefined;

  constructor(
    private readonly input: InspectConfig['input'],
    private readonly frames: number,
  ) {
    if (input)
      this.decoder = new ImageDecoder({ size: input.imageSize, fit: 'pad', mean: input.padding, std: [1, 1, 1] });
  }

  async close(): Promise<void> {
    await this.decoder?.close();
  }

  async figure(media: MediaRef, number: number): Promise<string> {
    const all = 'image' in media ? [media.image] : 'frames' in media ? media.frames : [];
    const chosen = evenlySpaced(all.length, this.frames).map((i) => all[i]!);
    const shown = await Promise.all(chosen.map((image) => this.image(image)));
    const caption = [`${number}`, media.name, media.alt && `“${media.alt}”`].filter(Boolean).join(' · ');
    return `<figure class="m${color(number)}">${shown.join('')}<figcaption>${escapeHtml(caption)}</figcaption></figure>`;
  }

  private async image(image: EncodedImage): Promise<string> {
    try {
      const png = await (this.decoder && this.input
        ? this.asInput(image, this.decoder, this.input.imageSize)
        : small(image));
      const width = this.input ? ` width="${Math.max(THUMBNAIL, this.input.imageSize)}"` : '';
      return `<img alt=""${width} src="data:image/png;base64,${png.toString('base64')}">`;
    } catch (error) {
      return `<span class="none">unreadable: ${escapeHtml((error as Error).message)}</span>`;
    }
  }

  private async asInput(image: EncodedImage, decoder: ImageDecoder, side: number): Promise<Buffer> {
    const pixels = await decoder.decodeBytes(image);
    if (!pixels) throw new Error(decoder.report().failures.at(-1)?.reason ?? 'cannot be decoded');
    return sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
      .png()
      .toBuffer();
  }
}

function small(image: EncodedImage): Promise<Buffer> {
  return sharp(image, { limitInputPixels: MAX_PIXELS })
    .timeout({ seconds: TIMEOUT_SECONDS })
    .autoOrient()
    .resize({ width: THUMBNAIL, height: THUMBNAIL, fit: 'inside', withoutEnlargement: true })
    .flatten({ background: '#ffffff' })
    .png()
    .toBuffer();
}

function aboutHtml({ about }: Document): string {
  if (!about) return '';
  return `<details><summary>about</summary><pre>${escapeHtml(JSON.stringify(about, null, 2))}</pre></details>`;
}

const STYLE = `
h2{font-size:.95rem;margin:0;border:0;overflow-wrap:anywhere}article{border-top:1px solid #ddd;padding:1rem 0;line-height:1.7}
.tokens{white-space:pre-wrap;overflow-wrap:anywhere}.tokens span{border-bottom:3px solid var(--m);padding:1px 0}
.t0{background:#f1f1f1}.t1{background:#e2e6ec}.given{color:#9a9a9a}.learned{color:#111;font-weight:600}
.special{font:12px/1 ui-monospace,monospace;background:var(--m);color:#fff!important;border-radius:4px;padding:1px 5px!important;margin:0 2px}
.special.given{opacity:.65}.none{color:#b3261e}
.m0{--m:#c4c4c4}.m1{--m:#0b6e99}.m2{--m:#d9730d}.m3{--m:#0f7b6c}.m4{--m:#ad1a72}.m5{--m:#6940a5}.m6{--m:#8a6d3b}
article figure{display:inline-block;vertical-align:middle;margin:4px;padding:3px;border:3px solid var(--m);border-radius:6px;max-width:100%}
figure img{display:inline-block;margin-right:2px;vertical-align:top;image-rendering:pixelated}
article figcaption{font-size:.75rem;line-height:1.2;color:#444;max-width:330px;overflow-wrap:anywhere;white-space:normal}
details{font-size:.85rem;margin-top:.5rem}pre{white-space:pre-wrap;overflow-wrap:anywhere}
`;
