import type { Broken, Document, DocumentSource } from './document';
import type { Faults } from './faults';

/** A set of documents on disk. */
export interface Dataset extends DocumentSource {
  /** What kind of files it was read from. */
  readonly format: string;
  /** What was broken in what has been read so far; counted again when it is read again. */
  readonly faults: Faults;
  get(index: number): Promise<Document | Broken>;
  /** The file, and the line, row or member in it. */
  where(index: number): string;
}
