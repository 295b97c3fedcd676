import { createReadStream } from 'node:fs';
import { createGunzip } from 'node:zlib';
import { WARCParser, type WARCRecord } from 'warcio';
import { PAGE_LIMITS } from '../pages/html';
import { IMAGE_LIMITS } from '../images/image-info';

/** What a server answered. */
export interface Response {
  readonly url: string;
  /** As the header has it, in lower case. */
  readonly contentType: string;
  /** A header of the answer, undefined where it is absent. */
  readonly header: (name: string) => string | undefined;
  /** Undefined for one that is larger than a page or an image may be. */
  readonly bytes: Uint8Array | undefined;
}

/** An archive that unfolds to this much without a record, or a piece of one, is a bomb or none. */
const MAX_BETWEEN_RECORDS = IMAGE_LIMITS.bytes + PAGE_LIMITS.bytes;

/**
 * Pages and images of bytes `start` to `end` of a WARC file, gzipped or not, one at a time. Whatever they unfold to,
 * memory holds no more than one.
 *
 * @throws Error where the archive is damaged; records before have been given by then
 */
export async function* readWarc(file: string, start: number, end: number): AsyncGenerator<Response> {
  if (end <= start) return;
  const progress = { bytes: 0 };
  for await (const record of new WARCParser(inflated(file, start, end, progress))) {
    progress.bytes = 0;
    const response = await readRecord(record, progress);
    if (response) yield response;
    progress.bytes = 0;
  }
}

async function readRecord(record: WARCRecord, progress: { bytes: number }): Promise<Response | undefined> {
  const url = record.warcTargetURI?.replace(/^<|>$/g, '');
  const isAnswer = record.warcType === 'response' && Number(record.httpHeaders?.statusCode) === 200;
  const headers = record.warcType === 'resource' ? record.warcHeaders.headers : record.httpHeaders?.headers;
  const contentType = headers?.get('content-type')?.toLowerCase() ?? '';
  const isPage = /html/.test(contentType);
  const wanted = url && (isAnswer || record.warcType === 'resource') && (isPage || contentType.startsWith('image/'));
  const limit = isPage ? PAGE_LIMITS.bytes : IMAGE_LIMITS.bytes;
  const chunks: Uint8Array[] = [];
  let length = 0;
  // A record that is not wanted is read to its end too, piece by piece: the next one begins there.
  for await (const chunk of record) {
    progress.bytes = 0;
    length += chunk.length;
    if (wanted && length <= limit) chunks.push(chunk);
    else chunks.length = 0;
  }
  if (!wanted) return undefined;
  const header = (name: string) => headers?.get(name) ?? undefined;
  return { url, contentType, header, bytes: length <= limit ? Buffer.concat(chunks) : undefined };
}

async function* inflated(
  file: string,
  start: number,
  end: number,
  progress: { bytes: number },
): AsyncGenerator<Uint8Array> {
  const raw = createReadStream(file, { start, end: end - 1 });
  let source: AsyncIterable<Buffer> = raw;
  if (/\.gz$/i.test(file)) {
    const gunzip = createGunzip();
    raw.on('error', (error) => gunzip.destroy(error));
    source = raw.pipe(gunzip);
  }
  for await (const chunk of source) {
    progress.bytes += chunk.length;
    if (progress.bytes > MAX_BETWEEN_RECORDS)
      throw new Error(`${file}: no record within ${MAX_BETWEEN_RECORDS} bytes.`);
    yield chunk;
  }
}
