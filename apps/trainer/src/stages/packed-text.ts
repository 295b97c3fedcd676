/** Position in a stream: the place of the next document, and how many of its tokens are used already. */
export interface TextCursor {
  readonly place: number;
  readonly used: number;
}

/** Rows of one step, and the position after them. */
export interface PackedRows {
  readonly rows: readonly (readonly number[])[];
  readonly cursor: TextCursor;
}

/**
 * Cuts a stream of documents into rows of equal length, without padding: the next row begins with the rest of a document.
 * No token is lost or repeated. Text in a row can attend to the previous document.
 */
export class PackedText {
  private place: number;
  private used: number;
  /** Tokens of the document at `place`, once read. */
  private tokens: readonly number[] | undefined;
  /** The rows requested last; the next ones begin where they end. */
  private last: Promise<unknown> = Promise.resolve();

  /**
   * @param document returns the tokens of the document at each place from 0; empty ones are skipped, but not all may be empty
   * @param cursor   position to resume from
   */
  constructor(
    private readonly document: (place: number) => Promise<readonly number[]>,
    { place, used }: TextCursor = { place: 0, used: 0 },
  ) {
    this.place = place;
    this.used = used;
  }

  /** The next rows. May be called again before they resolve. */
  next(count: number, length: number): Promise<PackedRows> {
    const rows = this.last.then(() => this.take(count, length));
    this.last = rows;
    return rows;
  }

  /** Resolves once all requested rows have resolved or failed. */
  async whenDone(): Promise<void> {
    await this.last.catch(() => undefined);
  }

  private async take(count: number, length: number): Promise<PackedRows> {
    const rows: number[][] = [];
    while (rows.length < count) {
      const row: number[] = [];
      while (row.length < length) {
        this.tokens ??= await this.document(this.place);
        const piece = this.tokens.slice(this.used, this.used + length - row.length);
        row.push(...piece);
        this.used += piece.length;
        if (this.used >= this.tokens.length) {
          this.place++;
          this.used = 0;
          this.tokens = undefined;
        }
      }
      rows.push(row);
    }
    return { rows, cursor: { place: this.place, used: this.used } };
  }
}
