import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Document, EncodedImage } from '@flamingo-ts/data-mixtures';
import { imagesOf } from './data-check';

/** Images that training never sees. Images are equal if their bytes are, whatever their names and formats of storage. */
export class HeldOutImages {
  private readonly hashes = new Set<string>();
  private readonly byPath = new Map<string, Promise<string>>();

  add(hash: string): void {
    this.hashes.add(hash);
  }

  /** Whether a document shows any of the images. */
  async areIn(document: Document): Promise<boolean> {
    const hashes = await Promise.all(imagesOf(document).map(({ image }) => this.hashOf(image)));
    return hashes.some((hash) => this.hashes.has(hash));
  }

  /** Hash of the bytes of an image; of the path if there is no such file. */
  hashOf(image: EncodedImage): Promise<string> | string {
    if (typeof image !== 'string') return sha256(image);
    const known = this.byPath.get(image);
    if (known) return known;
    const hash = readFile(image).then(sha256, () => image);
    this.byPath.set(image, hash);
    return hash;
  }
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
