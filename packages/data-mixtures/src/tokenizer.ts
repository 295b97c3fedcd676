/** The ids that carry structure. */
export interface SpecialTokens {
  /** Stands where an image stood. */
  readonly image: number;
  /** `<EOC>`: the text that belongs to an image ends. */
  readonly endOfChunk: number;
  /** First token of every sequence; left out where the language model was trained without one. */
  readonly bos?: number;
  /** Last token of a document that is complete. */
  readonly eos: number;
  /** Fills a batch up. May equal `eos`: padding is known by its place, not by its id. */
  readonly pad: number;
}

/** What this package needs of a tokenizer. */
export interface TextTokenizer {
  /** Ids of plain text, without any special token added. */
  encode(text: string): ArrayLike<number>;
  readonly special: SpecialTokens;
}

/**
 * Ids of text from the outside. A page that spells out `<image>` must not create a mark without an image, so ids
 * with structure are removed.
 */
export function encodeText(tokenizer: TextTokenizer, text: string): number[] {
  const structure = new Set<number | undefined>(Object.values(tokenizer.special));
  return Array.from(tokenizer.encode(text)).filter((id) => !structure.has(id));
}
