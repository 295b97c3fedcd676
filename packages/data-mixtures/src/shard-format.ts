import { createHash } from 'node:crypto';
import { z } from 'zod';

/** Limits of one document, which keep a malicious shard from filling the memory. */
export const MAX_PARTS = 10_000;
export const MAX_TEXT_BYTES = 2 ** 26;
/** All images of a document together. */
export const MAX_DOCUMENT_BYTES = 2 ** 30;

const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/);
const image = z.strictObject({
  /** Extension of the tar member that holds the image. */
  member: z.string().min(1),
  /** Key of the document that holds the member, if it is an earlier document of the same shard. */
  of: z.string().min(1).optional(),
  sha256: sha256Hex,
});
const named = { name: z.string().optional(), alt: z.string().optional() };

/**
 * The JSON member of a document. Images are tar members with the same key. A shard holds each image once: later documents
 * refer to the member of the first.
 */
export const storedDocument = z.strictObject({
  flamingo: z.literal(1),
  kind: z.enum(['page', 'pair', 'clip']),
  parts: z
    .array(
      z.union([
        z.strictObject({ text: z.string(), learn: z.boolean().optional() }),
        z.strictObject({ image: image, ...named }),
        z.strictObject({ frames: z.array(image).max(MAX_PARTS), ...named }),
      ]),
    )
    .max(MAX_PARTS),
  about: z.record(z.string(), z.unknown()).optional(),
});
export type StoredDocument = z.infer<typeof storedDocument>;
export type StoredImage = z.infer<typeof image>;

const counts = z.record(z.string(), z.number().int().min(0));
const total = z.number().int().min(0);

const shardEntry = z.strictObject({
  /** Name of a file next to the manifest, without a path. */
  name: z.string().regex(/^[\w-][\w.-]*\.tar$/),
  bytes: total,
  sha256: sha256Hex,
  documents: total,
  images: total,
  tokens: total,
});
/** One shard as the manifest lists it. */
export type ShardEntry = z.infer<typeof shardEntry>;

export const manifestSchema = z.strictObject({
  format: z.literal('flamingo-shards'),
  version: z.literal(1),
  documents: total,
  /** Images of all documents, frames of clips included. An image that several documents share counts for each. */
  images: total,
  tokens: total,
  /** Name of the tokenizer that counted `tokens`. */
  tokensAre: z.string(),
  /** Counts of what was dropped while writing the shards, by reason. */
  dropped: counts,
  shards: z.array(shardEntry),
});
/** The contents of a folder of shards. */
export type Manifest = z.infer<typeof manifestSchema>;
export const MANIFEST = 'manifest.json';

export const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex');

const SEAL = /,"sha256":"([0-9a-f]{64})"\}$/;

/** Serializes to JSON whose last key is the checksum of everything before it. */
export function seal(value: object): string {
  const open = JSON.stringify(value).slice(0, -1);
  return `${open},"sha256":"${sha256(open)}"}`;
}

/** Parses sealed JSON. Returns undefined if the checksum is missing or wrong. */
export function unseal(text: string): unknown {
  const match = SEAL.exec(text);
  if (!match) return undefined;
  const open = text.slice(0, match.index);
  return sha256(open) === match[1] ? (JSON.parse(`${open}}`) as unknown) : undefined;
}

/** Splits the name of a member at the first dot of its file name. Members with the same key form a document. */
export function splitName(name: string): { readonly key: string; readonly extension: string } | undefined {
  const [, key, extension] = /^((?:.*\/)?[^/.]+)\.([^/]+)$/s.exec(name) ?? [];
  return key === undefined || extension === undefined ? undefined : { key, extension: extension.toLowerCase() };
}

const SIGNATURES: readonly (readonly [RegExp, string])[] = [
  [/^\xff\xd8\xff/, 'jpg'],
  [/^\x89PNG/, 'png'],
  [/^GIF8/, 'gif'],
  [/^RIFF....WEBP/s, 'webp'],
  [/^....ftypavi[fs]/s, 'avif'],
  [/^(II\*\0|MM\0\*)/, 'tiff'],
  [/^\s*<(\?xml|svg|!DOCTYPE svg)/i, 'svg'],
];

/** Determines the extension from the bytes, not from a file name. */
export function imageExtension(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, 64)).toString('latin1');
  return SIGNATURES.find(([signature]) => signature.test(start))?.[1] ?? 'bin';
}

/** Extensions of images in shards of img2dataset. */
export const IMAGE_EXTENSIONS = ['jpg', 'jpeg', 'png', 'webp', 'gif', 'avif', 'tiff', 'bmp'];
