/** An encoded image: the path of its file, or its bytes. */
export type EncodedImage = string | Uint8Array;

/** One visual input of a document; the media loader in use says which of the forms it can read. */
export type MediaRef = (
  | { readonly image: EncodedImage }
  /** A clip: its frames in the order of time. */
  | { readonly frames: readonly EncodedImage[] }
  /** Whatever the loader understands: the number of a cached feature, the key of a store. */
  | { readonly key: string | number }
) & {
  /** What reports call it; a file's path or the key where left out. */
  readonly name?: string;
  /** Alternative text or caption that stood with it; kept in shards, never learned. */
  readonly alt?: string;
};

export interface TextPart {
  readonly text: string;
  /** False: the text is given, not learned (the `Output:` of a prompt, a question). Default true. */
  readonly learn?: boolean;
}

export interface MediaPart {
  readonly media: MediaRef;
}

/**
 * A unit of training data: text and images in the order a reader meets them.
 *
 * - `page`: any interleaving (the paper's M3W)
 * - `pair`: one image and its text (ALIGN, LTIP)
 * - `clip`: one clip and its text (VTP)
 */
export interface Document {
  readonly kind: 'page' | 'pair' | 'clip';
  readonly parts: readonly (TextPart | MediaPart)[];
  /** What else is known of it, as JSON: its address, its licence. Kept in shards, never learned. */
  readonly about?: Readonly<Record<string, unknown>>;
}

/**
 * Parts without those that are missing. Texts that a missing image stood between are kept apart by a space: as
 * neighbours they are one text.
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

/** Why there is no document, in a few words that reports count. */
export interface Broken {
  readonly rejected: string;
  /** What exactly is wrong, for a person who can mend it. */
  readonly detail?: string;
}

/** An indexable set of documents. `get(i)` gives the same document whenever it is asked. */
export interface DocumentSource {
  /** Documents in one epoch; Infinity for a generator that has a new document for every index. */
  readonly length: number;
  /** Undefined or a reason for a document that turns out to be broken: it is counted and left out. */
  get(index: number): Document | Broken | undefined | Promise<Document | Broken | undefined>;
  /**
   * Which document stands at `place` of the order that the keys (seed, name, epoch) seed: a permutation of all. Left out,
   * any may follow any; a source that is read best in some order gives one of its own.
   */
  shuffled?(place: number, ...keys: readonly (number | string)[]): number;
}

/** A name that a person can find the image by. */
export function mediaName(media: MediaRef): string {
  if (media.name !== undefined) return media.name;
  if ('key' in media) return `key ${media.key}`;
  const first = 'image' in media ? media.image : media.frames[0];
  return typeof first === 'string' ? first : `${first?.byteLength ?? 0} bytes in memory`;
}
