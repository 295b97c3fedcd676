/** Where a stream stands: the place of the document that comes next, and how many of its tokens are used already. */
export interface TextCursor {
  readonly place: number;
  readonly used: number;
}

/** Rows of one step, and where the stream stands after them. */
export interface PackedRows {
  readonly rows: readonly (readonly number[])[];
  readonly cursor: TextCursor;
}

/**
 * Documents one after the other, cut into rows of equal length: nothing is padded, and what is left of a document begins
 * the next row. No token is lost or comes twice; a row may look back into the document before.
 */
export class PackedText {
  private place: number;
  private used: number;
  /** Tokens of the document at `place`, once they are there. */
  private tokens: readonly number[] | undefined;
  /** Rows that were asked for last; those of the next step begin where they end. */
  private last: Promise<unknown> = Promise.resolve();

  /**
   * @param document tokens of the document at each place from 0; an empty one is passed over, but not all may be
   * @param cursor   where to go on
   */
  constructor(
    private readonly document: (place: number) => Promise<readonly number[]>,
    { place, used }: TextCursor = { place: 0, used: 0 },
  ) {
    this.place = place;
    this.used = used;
  }

  /** The next rows; may be called again before they are there. */
  next(count: number, length: number): Promise<PackedRows> {
    const rows = this.last.then(() => this.take(count, length));
    this.last = rows;
    return rows;
  }

  /** Resolves once no rows are on their way, whether they came or failed. */
  async settled(): Promise<void> {
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
