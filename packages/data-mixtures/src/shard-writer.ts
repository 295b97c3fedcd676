import { createHash, type Hash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { mediaName, type Document, type EncodedImage, type MediaRef } from './document';
import {
  imageExtension,
  MANIFEST,
  MAX_DOCUMENT_BYTES,
  MAX_PARTS,
  MAX_TEXT_BYTES,
  seal,
  sha256,
  type Manifest,
  type ShardEntry,
  type StoredImage,
} from './shard-format';
import { expectWhole } from './checks';
import { MAX_MEMBER_BYTES, TAR_END, tarMember } from './tar';

/** Counts tokens for a manifest. */
export interface TokenCounter {
  /** Human-readable name of the tokenizer. */
  readonly name: string;
  count(text: string): number;
}

/** Counts words and punctuation marks. Needs no tokenizer; for English within a third of most tokenizers' counts. */
export const wordCounter: TokenCounter = {
  name: 'words and punctuation marks',
  count: (text) => text.match(/[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]/gu)?.length ?? 0,
};

export interface ShardWriterOptions {
  /** Shards are named `PREFIX-000000.tar` and so on. Defaults to `shard`. */
  readonly prefix?: string;
  /** A shard ends at the first document that reaches either limit. Defaults to 10,000 documents and 512 MiB. */
  readonly maxDocuments?: number;
  readonly maxBytes?: number;
  readonly tokens?: TokenCounter;
}

/** A document that exceeds the limits of the reader. The writer has written nothing of it and stays usable. */
export class DocumentTooLarge extends Error {
  /** @param reason in a few words, for counting */
  constructor(
    readonly reason: string,
    detail: string,
  ) {
    super(detail);
  }
}

/**
 * Writes documents as WebDataset shards, and a manifest at the end. Writes each shard to a temporary file and renames it
 * when it is complete. Stores images of equal bytes once per shard. Equal documents produce equal bytes.
 */
export class ShardWriter {
  private readonly shards: ShardEntry[] = [];
  private readonly dropped: Record<string, number> = {};
  private current: OpenShard | undefined;

  private constructor(
    readonly folder: string,
    private readonly options: Required<ShardWriterOptions>,
  ) {}

  /** @throws Error if an option is wrong, or if the folder already has a manifest */
  static async create(folder: string, options: ShardWriterOptions = {}): Promise<ShardWriter> {
    const { prefix = 'shard', maxDocuments = 10_000, maxBytes = 2 ** 29, tokens = wordCounter } = options;
    if (!/^[\w-]{1,60}$/.test(prefix)) {
      throw new Error(`ShardWriter: prefix must be 1 to 60 letters, digits, - and _, got ${JSON.stringify(prefix)}.`);
    }
    expectWhole('ShardWriter: maxDocuments', maxDocuments, 1);
    expectWhole('ShardWriter: maxBytes', maxBytes, 1);
    await mkdir(folder, { recursive: true });
    if (existsSync(join(folder, MANIFEST))) {
      throw new Error(
        `ShardWriter: ${folder} already has finished shards (${MANIFEST}). Choose another folder or empty this one.`,
      );
    }
    return new ShardWriter(folder, { prefix, maxDocuments, maxBytes, tokens });
  }

  /**
   * Adds a document. Await each call before the next.
   *
   * @throws DocumentTooLarge if readers would reject the document
   */
  async add(document: Document): Promise<void> {
    const { prefix, maxDocuments, maxBytes, tokens } = this.options;
    const number = String(this.shards.length).padStart(6, '0');
    this.current ??= await OpenShard.create(join(this.folder, `${prefix}-${number}.tar`), tokens);
    await this.current.add(document);
    if (this.current.documents >= maxDocuments || this.current.bytes >= maxBytes) await this.closeShard();
  }

  /** Counts something that was dropped, for the manifest. */
  drop(reason: string, count = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + count;
  }

  /** Finishes the open shard and writes the manifest. */
  async close(): Promise<Manifest> {
    await this.closeShard();
    return writeManifest(this.folder, this.shards, this.dropped, this.options.tokens);
  }

  /** Removes the open shard. Finished shards stay, without a manifest. */
  async abort(): Promise<void> {
    await this.current?.abort();
    this.current = undefined;
  }

  private async closeShard(): Promise<void> {
    if (this.current?.documents === 0) await this.current.abort();
    else if (this.current) this.shards.push(await this.current.close());
    this.current = undefined;
  }
}

async function writeManifest(
  folder: string,
  shards: readonly ShardEntry[],
  dropped: Readonly<Record<string, number>>,
  tokens: TokenCounter,
): Promise<Manifest> {
  const sum = (key: 'documents' | 'images' | 'tokens') => shards.reduce((n, shard) => n + shard[key], 0);
  const manifest: Manifest = {
    format: 'flamingo-shards',
    version: 1,
    documents: sum('documents'),
    images: sum('images'),
    tokens: sum('tokens'),
    tokensAre: tokens.name,
    dropped: { ...dropped },
    shards: [...shards],
  };
  const file = await PartialFile.create(join(folder, MANIFEST));
  try {
    await file.write(Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`));
    await file.finish();
  } catch (error) {
    await file.abort();
    throw error;
  }
  return manifest;
}

/** Writes a file atomically: to a temporary file, flushed to disk, then renamed. */
class PartialFile {
  bytes = 0;
  private readonly hash: Hash = createHash('sha256');

  private constructor(
    private readonly path: string,
    private readonly temporary: string,
    private readonly handle: FileHandle,
  ) {}

  static async create(path: string): Promise<PartialFile> {
    const temporary = join(dirname(path), `.${basename(path)}.partial`);
    return new PartialFile(path, temporary, await open(temporary, 'w'));
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.handle.writeFile(bytes);
    this.hash.update(bytes);
    this.bytes += bytes.length;
  }

  /** @returns the SHA-256 of the file */
  async finish(): Promise<string> {
    await this.handle.sync();
    await this.handle.close();
    await rename(this.temporary, this.path);
    return this.hash.digest('hex');
  }

  async abort(): Promise<void> {
    await this.handle.close();
    await rm(this.temporary, { force: true });
  }
}

class OpenShard {
  documents = 0;
  private images = 0;
  private tokens = 0;
  /** Images in the shard by their checksum. */
  private readonly stored = new Map<string, StoredImage>();

  private constructor(
    private readonly path: string,
    private readonly file: PartialFile,
    private readonly counter: TokenCounter,
  ) {}

  static async create(path: string, counter: TokenCounter): Promise<OpenShard> {
    return new OpenShard(path, await PartialFile.create(path), counter);
  }

  get bytes(): number {
    return this.file.bytes;
  }

  async add(document: Document): Promise<void> {
    if (document.kind === 'question') {
      throw new Error(
        `Shard ${this.path}: shards store pages, pairs and clips, got a question. Keep it in eval.jsonl.`,
      );
    }
    const most = document.parts.reduce((n, part) => Math.max(n, framesOf(part)), document.parts.length);
    if (most > MAX_PARTS) {
      throw new DocumentTooLarge('too many parts', `A document may have ${MAX_PARTS} parts or frames, got ${most}.`);
    }
    const key = String(this.documents).padStart(8, '0');
    const images = new DocumentImages(key, this.stored);
    const parts: object[] = [];
    let tokens = 0;
    for (const part of document.parts) {
      if ('text' in part) {
        parts.push({ text: part.text, learn: part.learn });
        tokens += this.counter.count(part.text);
        continue;
      }
      const { media } = part;
      if ('key' in media) {
        throw new Error(`Shard ${this.path}: expected images as files or bytes, got ${mediaName(media)}.`);
      }
      const about = { name: media.name ?? pathOf(media), alt: media.alt };
      if ('image' in media) parts.push({ image: await images.add(media.image, media), ...about });
      else {
        const frames: StoredImage[] = [];
        for (const frame of media.frames) frames.push(await images.add(frame, media));
        parts.push({ frames, ...about });
      }
    }
    const text = Buffer.from(seal({ flamingo: 1, kind: document.kind, parts, about: document.about }));
    if (text.length > MAX_TEXT_BYTES) {
      const got = `A document may have ${MAX_TEXT_BYTES} bytes of text, got ${text.length}.`;
      throw new DocumentTooLarge('text too large', got);
    }
    await this.file.write(Buffer.concat([tarMember(`${key}.json`, text), ...images.members]));
    for (const [hash, { member }] of images.added) this.stored.set(hash, { member, of: key, sha256: hash });
    this.documents++;
    this.images += images.count;
    this.tokens += tokens;
  }

  async close(): Promise<ShardEntry> {
    await this.file.write(TAR_END);
    const { documents, images, tokens } = this;
    const { bytes } = this.file;
    return { name: basename(this.path), bytes, sha256: await this.file.finish(), documents, images, tokens };
  }

  abort(): Promise<void> {
    return this.file.abort();
  }
}

/** Collects the images of one document: new members, and references to images that the shard already has. */
class DocumentImages {
  readonly members: Buffer[] = [];
  readonly added = new Map<string, StoredImage>();
  count = 0;
  private bytes = 0;

  constructor(
    private readonly key: string,
    private readonly stored: ReadonlyMap<string, StoredImage>,
  ) {}

  async add(image: EncodedImage, media: MediaRef): Promise<StoredImage> {
    const bytes = typeof image === 'string' ? await readImage(image) : image;
    if (bytes.length > MAX_MEMBER_BYTES) {
      throw new DocumentTooLarge('image too large', `${mediaName(media)}: more than ${MAX_MEMBER_BYTES} bytes.`);
    }
    // A reader loads an image once for each time that the document shows it.
    this.bytes += bytes.length;
    if (this.bytes > MAX_DOCUMENT_BYTES) {
      const most = `${MAX_DOCUMENT_BYTES} bytes in one document`;
      throw new DocumentTooLarge('images too large', `${mediaName(media)}: images of more than ${most}.`);
    }
    this.count++;
    const hash = sha256(bytes);
    const known = this.added.get(hash) ?? this.stored.get(hash);
    if (known) return known;
    const member = `${this.members.length}.${imageExtension(bytes)}`;
    this.members.push(tarMember(`${this.key}.${member}`, bytes));
    const fresh = { member, sha256: hash };
    this.added.set(hash, fresh);
    return fresh;
  }
}

const framesOf = (part: Document['parts'][number]) =>
  'media' in part && 'frames' in part.media ? part.media.frames.length : 1;

/**
 * File name of an image, for reports. Leaves out the folders, which are private to the machine that writes the shard.
 */
function pathOf(media: MediaRef): string | undefined {
  const first = 'image' in media ? media.image : 'frames' in media ? media.frames[0] : undefined;
  return typeof first === 'string' ? basename(first) : undefined;
}

/** Reads an image. Rejects pipes, because opening one can block forever. */
async function readImage(path: string): Promise<Buffer> {
  const info = await stat(path);
  if (!info.isFile()) throw new Error(`${path}: expected a regular file.`);
  if (info.size > MAX_MEMBER_BYTES) {
    throw new DocumentTooLarge('image too large', `${path}: more than ${MAX_MEMBER_BYTES} bytes, ${info.size}.`);
  }
  return readFile(path);
}
