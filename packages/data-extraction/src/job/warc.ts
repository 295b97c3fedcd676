import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import zlib from 'node:zlib';
import { PAGE_LIMITS } from '../pages/html';
import { IMAGE_LIMITS, sniffFormat } from '../images/image-info';

/** A page or an image of an archive. */
export interface Response {
  readonly kind: 'page' | 'image';
  readonly url: string;
  /** The `Content-Type` header, in lower case. */
  readonly contentType: string;
  /** Returns a header of the response, undefined if it is absent. */
  readonly header: (name: string) => string | undefined;
  /** The decoded body, or why it cannot be used. */
  readonly body: Uint8Array | string;
}

/** An archive that decompresses to this much without a record is a decompression bomb, or not an archive. */
const MAX_BETWEEN_RECORDS = IMAGE_LIMITS.bytes + PAGE_LIMITS.bytes;
const MAX_HEADER_BYTES = 2 ** 17;

/**
 * Reads the pages and images of bytes `start` to `end` of a WARC file, gzipped or not, one at a time. Memory holds only
 * one of them, whatever its decompressed size. Lines may end in CR LF or in LF alone.
 *
 * @param onDamage called for bytes that are not a record and for a truncated record; reading resumes at the next record
 * @throws Error if the gzip stream is damaged; the records before it have been yielded by then
 */
export async function* readWarc(
  file: string,
  start: number,
  end: number,
  onDamage: (what: string) => void,
): AsyncGenerator<Response> {
  const reader = new ByteReader(inflated(file, start, end));
  let hasRecords = false;
  let isReported = false;
  for (let version = await reader.line(); version !== undefined; version = await reader.line()) {
    if (version === '') continue;
    if (!/^WARC\/\d/.test(version)) {
      if (!isReported) onDamage(`expected a record (WARC/1.0), got ${JSON.stringify(version.slice(0, 60))}`);
      isReported = true;
      if (!(await reader.skipToRecord())) break;
    }
    isReported = false;
    hasRecords = true;
    const warc = await readHeaders(reader);
    const length = Number(warc.get('content-length') ?? NaN);
    if (!Number.isSafeInteger(length) || length < 0) {
      onDamage(`expected a Content-Length, got ${warc.get('content-length') ?? 'none'}`);
      isReported = true;
      continue;
    }
    reader.limit(length);
    const response = await readRecord(reader, warc);
    if (!(await reader.skipToLimit())) onDamage('the last record is truncated');
    else if (response) yield response;
  }
  if (!hasRecords && !isReported) onDamage('expected a record (WARC/1.0), got none');
}

async function readRecord(reader: ByteReader, warc: ReadonlyMap<string, string>): Promise<Response | undefined> {
  const type = warc.get('warc-type');
  const url = warc.get('warc-target-uri')?.replace(/^<|>$/g, '');
  if (!url || (type !== 'response' && type !== 'resource')) return undefined;
  let headers = warc;
  if (type === 'response') {
    // Some archives contain the body only.
    const status = (await reader.startsWith('HTTP/')) ? await reader.line() : undefined;
    if (status !== undefined && !/^HTTP\/\S+\s+200\b/.test(status)) return undefined;
    headers = status === undefined ? new Map() : await readHeaders(reader);
  }
  const contentType = headers.get('content-type')?.toLowerCase() ?? '';
  const isPage = /html/.test(contentType);
  // Object stores send images as octet-stream, and some servers send no type at all.
  if (!isPage && !/^(?:image\/|(?:application|binary)\/(?:octet-stream|x-unknown)|unknown|$)/.test(contentType)) {
    return undefined;
  }
  const raw = await reader.bytes(isPage ? 2 * PAGE_LIMITS.bytes : 2 * IMAGE_LIMITS.bytes);
  const limit = isPage ? PAGE_LIMITS.bytes : IMAGE_LIMITS.bytes;
  const body = raw === undefined ? 'too large' : decodeBody(raw, headers, limit);
  const kind = isPage || contentType.startsWith('image/') ? (isPage ? 'page' : 'image') : kindOf(body);
  return kind && { kind, url, contentType, header: (name) => headers.get(name), body };
}

/** Recognizes a body without a specific type by its first bytes. */
function kindOf(body: Uint8Array | string): 'page' | 'image' | undefined {
  if (typeof body === 'string') return undefined;
  if (sniffFormat(body)) return 'image';
  const start = Buffer.from(body.buffer, body.byteOffset, Math.min(512, body.length)).toString('latin1');
  return /^(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|title|meta)\b/i.test(start) ? 'page' : undefined;
}

/** Reads header lines up to an empty line. Several headers of a name are joined by commas. */
async function readHeaders(reader: ByteReader): Promise<Map<string, string>> {
  const headers = new Map<string, string>();
  let last = '';
  let length = 0;
  for (let line = await reader.line(); line !== undefined && line !== ''; line = await reader.line()) {
    length += line.length;
    if (length > MAX_HEADER_BYTES) continue;
    if (/^[ \t]/.test(line) && last !== '') {
      headers.set(last, `${headers.get(last)} ${line.trim()}`);
      continue;
    }
    const colon = line.indexOf(':');
    if (colon < 1) continue;
    last = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    headers.set(last, headers.has(last) ? `${headers.get(last)}, ${value}` : value);
  }
  return headers;
}

/** Removes the transfer and content encodings. Crawlers that have already removed them often keep the headers. */
function decodeBody(raw: Uint8Array, headers: ReadonlyMap<string, string>, limit: number): Uint8Array | string {
  let body = /\bchunked\b/i.test(headers.get('transfer-encoding') ?? '') ? (dechunked(raw) ?? raw) : raw;
  const encodings = (headers.get('content-encoding') ?? '').toLowerCase().split(',');
  for (const encoding of encodings.map((name) => name.trim()).reverse()) {
    if (encoding === '' || encoding === 'identity') continue;
    const decoded = decompressed(body, encoding, limit);
    if (typeof decoded === 'string') return decoded;
    body = decoded;
  }
  return body.length > limit ? 'too large' : body;
}

function decompressed(body: Uint8Array, encoding: string, limit: number): Uint8Array | string {
  // For a truncated body, use what there is.
  const options = { maxOutputLength: limit, finishFlush: zlib.constants.Z_SYNC_FLUSH };
  try {
    if (encoding === 'gzip' || encoding === 'x-gzip') {
      return body[0] === 0x1f && body[1] === 0x8b ? zlib.gunzipSync(body, options) : body;
    }
    if (encoding === 'deflate') {
      const hasHeader = (body[0]! & 0x0f) === 8 && ((body[0]! << 8) | body[1]!) % 31 === 0;
      return hasHeader ? zlib.inflateSync(body, options) : zlib.inflateRawSync(body, options);
    }
    if (encoding === 'br') {
      const finishFlush = zlib.constants.BROTLI_OPERATION_FLUSH;
      return zlib.brotliDecompressSync(body, { maxOutputLength: limit, finishFlush });
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') return 'too large';
    return kindOf(body) ? body : 'damaged content encoding';
  }
  return kindOf(body) ? body : 'unknown content encoding';
}

/** Undefined for a body that is not chunked. */
function dechunked(raw: Uint8Array): Uint8Array | undefined {
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const size = /^([\da-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n/i.exec(bytes.toString('latin1', at, at + 200));
    // A broken chunk ends the body.
    if (!size) return chunks.length > 0 ? Buffer.concat(chunks) : undefined;
    const length = Number.parseInt(size[1]!, 16);
    if (length === 0) break;
    at += size[0].length;
    chunks.push(bytes.subarray(at, at + length));
    at += length;
    while (at < bytes.length && (bytes[at] === 0x0d || bytes[at] === 0x0a) && bytes[at - 1] !== 0x0a) at++;
  }
  return Buffer.concat(chunks);
}

/** Reads lines and bytes of a stream, one chunk at a time. */
class ByteReader {
  private readonly source: AsyncIterator<Uint8Array>;
  private chunk: Buffer = Buffer.alloc(0);
  /** Bytes left in the record. */
  private left = Infinity;
  /** Bytes since the last record began. */
  private passed = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.source = source[Symbol.asyncIterator]();
  }

  /** Begins a record of this length. */
  limit(bytes: number): void {
    this.left = bytes;
    this.passed = 0;
  }

  /** The next line without its end; undefined at the end of the record or stream. Very long lines are truncated. */
  async line(): Promise<string | undefined> {
    const pieces: Buffer[] = [];
    let length = 0;
    while (await this.fill()) {
      const end = this.chunk.indexOf(0x0a);
      const piece = this.take(end === -1 ? this.chunk.length : end + 1);
      if (length < MAX_HEADER_BYTES) pieces.push(piece);
      length += piece.length;
      if (piece[piece.length - 1] === 0x0a) break;
    }
    if (length === 0) return undefined;
    return Buffer.concat(pieces)
      .toString('utf8')
      .replace(/\r?\n$/, '');
  }

  /** Whether the rest of the record starts with this ASCII text. */
  async startsWith(text: string): Promise<boolean> {
    while (await this.fill()) {
      const { length } = this.chunk;
      if (length >= Math.min(text.length, this.left)) break;
      const { value, done } = await this.source.next();
      if (done) break;
      this.chunk = Buffer.concat([this.chunk, value]);
    }
    return this.chunk.toString('latin1', 0, Math.min(text.length, this.left)) === text;
  }

  /** The rest of the record; undefined if it is more than `limit`. */
  async bytes(limit: number): Promise<Uint8Array | undefined> {
    const pieces: Buffer[] = [];
    let length = 0;
    while (await this.fill()) {
      const piece = this.take(this.chunk.length);
      length += piece.length;
      if (length <= limit) pieces.push(piece);
      else pieces.length = 0;
    }
    return length <= limit ? Buffer.concat(pieces) : undefined;
  }

  /** Skips to the end of the record. @returns false if the stream ends before */
  async skipToLimit(): Promise<boolean> {
    while (await this.fill()) this.take(this.chunk.length);
    const isWhole = this.left === 0;
    this.limit(Infinity);
    return isWhole;
  }

  /** Skips the next line that begins a record. @returns false if there is none */
  async skipToRecord(): Promise<boolean> {
    for (let line = await this.line(); line !== undefined; line = await this.line()) {
      if (/^WARC\/\d\.\d$/.test(line)) return true;
    }
    return false;
  }

  /** @returns false at the end of the record or stream */
  private async fill(): Promise<boolean> {
    while (this.left > 0 && this.chunk.length === 0) {
      const { value, done } = await this.source.next();
      if (done) return false;
      this.chunk = Buffer.from(value.buffer, value.byteOffset, value.length);
    }
    return this.left > 0;
  }

  private take(bytes: number): Buffer {
    const taken = this.chunk.subarray(0, Math.min(bytes, this.left));
    this.chunk = this.chunk.subarray(taken.length);
    this.left -= taken.length;
    this.passed += taken.length;
    if (this.left === Infinity && this.passed > MAX_BETWEEN_RECORDS) {
      throw new Error(`no record within ${MAX_BETWEEN_RECORDS} bytes.`);
    }
    return taken;
  }
}

async function* inflated(file: string, start: number, end: number): AsyncGenerator<Uint8Array> {
  if (end <= start) return;
  const raw = createReadStream(file, { start, end: end - 1 });
  if (!(await isGzip(file, start))) return yield* raw;
  const gunzip = zlib.createGunzip();
  raw.on('error', (error) => gunzip.destroy(error));
  yield* raw.pipe(gunzip);
}

/** Recognizes gzip by the first bytes, because names may be wrong. */
async function isGzip(file: string, start: number): Promise<boolean> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(2), 0, 2, start);
    return bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
  } finally {
    await handle.close();
  }
}
