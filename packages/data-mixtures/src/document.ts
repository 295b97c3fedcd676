/** An encoded image: the path of a file, or its bytes. */
export type EncodedImage = string | Uint8Array;

/** One visual input of a document. The media loader in use determines which forms are valid. */
export type MediaRef = (
  | { readonly image: EncodedImage }
  /** A clip: its frames in temporal order. */
  | { readonly frames: readonly EncodedImage[] }
  /** An identifier that the loader resolves, such as the index of a cached feature. */
  | { readonly key: string | number }
) & {
  /** Name in reports. Defaults to the path of the file or the key. */
  readonly name?: string;
  /** Alternative text or caption from the source. Stored in shards, never trained on. */
  readonly alt?: string;
};

export interface TextPart {
  readonly text: string;
  /** Whether the loss covers this text. False for given text, such as a question. Defaults to true. */
  readonly learn?: boolean;
}

export interface MediaPart {
  readonly media: MediaRef;
}

/**
 * A unit of data: text and images in reading order.
 *
 * - `page`: any interleaving of text and images (M3W in the paper)
 * - `pair`: one image and its text (ALIGN, LTIP)
 * - `clip`: one clip and its text (VTP)
 * - `question`: one image and the expected answer, in this order (a line of `eval.jsonl`). Questions are for few-shot
 *   evaluation: `buildSample` rejects them and `ShardWriter` does not store them.
 */
export interface Document {
  readonly kind: 'page' | 'pair' | 'clip' | 'question';
  readonly parts: readonly (TextPart | MediaPart)[];
  /** Metadata as JSON, such as the URL or the license. Stored in shards, never trained on. */
  readonly about?: Readonly<Record<string, unknown>>;
}

/**
 * Removes missing parts. Adjacent texts are tokenized as one, so two texts that a missing image separated get a space
 * between them.
 */
export function closeGaps(parts: readonly (TextPart | MediaPart | undefined)[]): (TextPart | MediaPart)[] {
  const closed: (TextPart | MediaPart)[] = [];
  parts.forEach((part, i) => {
    if (!part) return;
    const last = closed[closed.length - 1];
    const meets = !parts[i - 1] && last && 'text' in last && 'text' in part;
    const needsSpace = meets && /\S$/.test(last.text) && /^\S/.test(part.text);
    closed.push(needsSpace ? { ...part, text: ` ${part.text}` } : part);
  });
  return closed;
}

/** Why a document cannot be read. */
export interface BrokenDocument {
  /** The reason in a few words. Reports count equal reasons. */
  readonly rejected: string;
  /** What exactly is wrong, so that it can be fixed. */
  readonly detail?: string;
}

/** Indexable documents. `get(i)` always returns the same document for the same index. */
export interface DocumentSource {
  /** Documents in one epoch; Infinity for a generator with a new document for every index. */
  readonly length: number;
  /** Returns undefined or a reason for a broken document, which the mixture counts and skips. */
  get(index: number): Document | BrokenDocument | undefined | Promise<Document | BrokenDocument | undefined>;
  /**
   * Index of the document at `place` of a permutation seeded by the keys (seed, name, epoch). Implement it if some orders
   * are faster to read than others; without it the mixture shuffles all documents uniformly.
   */
  shuffled?(place: number, ...keys: readonly (number | string)[]): number;
}

/** Returns a name that helps a person find the image. */
export function mediaName(media: MediaRef): string {
  if (media.name !== undefined) return media.name;
  if ('key' in media) return `key ${media.key}`;
  const first = 'image' in media ? media.image : media.frames[0];
  return typeof first === 'string' ? first : `${first?.byteLength ?? 0} bytes in memory`;
}
