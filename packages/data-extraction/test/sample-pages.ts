import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import sharp from 'sharp';

/** An image that differs from those of other seeds. */
export async function image(seed: number, width = 200, height = 160): Promise<Buffer> {
  const noise = Buffer.from(
    Array.from({ length: 8 * 8 * 3 }, (_, i) => (Math.imul(i + 1, seed * 7919 + 104729) >>> 7) & 255),
  );
  const image = sharp(noise, { raw: { width: 8, height: 8, channels: 3 } }).resize(width, height, { fit: 'fill' });
  return image.png({ compressionLevel: 1 }).toBuffer();
}

export const THINGS =
  'bridge harbour garden kettle window ladder orchard candle mountain barrel lantern saddle river basket hammer meadow chapel stable wagon anchor blanket curtain feather needle pepper village'.split(
    ' ',
  );
const DEEDS = 'painted carried watched mended forgot measured borrowed described followed washed sold opened'.split(
  ' ',
);
const PLACES = 'behind before under beside near above'.split(' ');
/** About 90 words of prose that differ from those of other seeds. */
export function prose(seed: number): string {
  let state = seed + 1;
  const one = (words: readonly string[]) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return words[(state >>> 12) % words.length]!;
  };
  const sentence = () =>
    `That ${one(THINGS)} and a ${one(THINGS)} have been ${one(DEEDS)} ${one(PLACES)} the ${one(THINGS)}, with some ${one(THINGS)} to be ${one(DEEDS)}.`;
  return Array.from({ length: 5 }, sentence).join(' ');
}
export const html = (body: string) => `<!doctype html><html lang="en"><title>A page</title><body>${body}</body></html>`;
export const pageOf = (seed: number, image: string) =>
  html(
    `<h1>About the ${THINGS[seed % THINGS.length]} of ${seed}</h1><p>${prose(seed)}</p><img src="${image}" alt="thing of number ${seed}">`,
  );

/** A WARC record of a response. @param headers header lines after the content type */
export function warcRecord(url: string, type: string, body: Buffer, headers = ''): Buffer {
  const http = Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\n${headers}\r\n`), body]);
  const lines = [
    'WARC/1.0',
    'WARC-Type: response',
    `WARC-Target-URI: ${url}`,
    `WARC-Record-ID: <urn:uuid:${url.length}>`,
    'WARC-Date: 2024-05-01T00:00:00Z',
    'Content-Type: application/http; msgtype=response',
    `Content-Length: ${http.length}`,
  ];
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), http, Buffer.from('\r\n\r\n')]);
}

export async function gather<T>(values: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const value of values) all.push(value);
  return all;
}

/** Names and contents of all files below. */
export function contents(below: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(below, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => path.join(entry.parentPath, entry.name))
      .map((file) => [path.relative(below, file), createHash('sha256').update(readFileSync(file)).digest('hex')])
      .sort(),
  );
}
