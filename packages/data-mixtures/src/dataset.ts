import type { BrokenDocument, Document, DocumentSource } from './document';
import type { Faults } from './faults';

/** Documents on disk. */
export interface Dataset extends DocumentSource {
  /** Format of the files: `jsonl`, `shards`, `obelics`, `coco-captions`, `vqav2` or `videos`. */
  readonly format: string;
  /** Problems in what has been read so far. Reading a broken document again counts it again. */
  readonly faults: Faults;
  get(index: number): Promise<Document | BrokenDocument>;
  /**
   * Path of the first image of a document, found without reading the document; undefined if it has none. Only datasets
   * whose images are files have this. Packing uses it to put documents that share an image next to each other.
   */
  firstImage?(index: number): Promise<string | undefined>;
  /** Location of a document: the file and the line, row or member in it. */
  where(index: number): string;
}
