import { expectWhole } from './checks';

/** Ids of the tokens that structure a sequence. */
export interface SpecialTokens {
  /** `<image>`: the position of an image. */
  readonly image: number;
  /** `<EOC>`: the end of the text that belongs to an image. */
  readonly endOfChunk: number;
  /** First token of every sequence. Omit it if the language model was trained without one. */
  readonly bos?: number;
  /** Last token of a complete document. */
  readonly eos: number;
  /** Fills batches. May equal `eos`, because padding is identified by position. */
  readonly pad: number;
}

/** The tokenizer interface that this package requires. */
export interface TextTokenizer {
  /** Ids of plain text. Must not contain special tokens, even if the text spells one out: `<image>` in text is text. */
  encode(text: string): ArrayLike<number>;
  readonly special: SpecialTokens;
}

/** @throws Error naming the id that is wrong, or the two ids that are equal */
export function checkTokenizer(where: string, { special }: TextTokenizer): void {
  const { image, endOfChunk, bos, eos, pad } = special;
  const ids = { image, endOfChunk, ...(bos !== undefined && { bos }), eos, pad };
  for (const [name, id] of Object.entries(ids)) expectWhole(`${where}: tokenizer.special.${name}`, id, 0);
  if (image === endOfChunk || [image, endOfChunk].some((id) => [bos, eos, pad].includes(id))) {
    throw new Error(
      `${where}: the ids image and endOfChunk of tokenizer.special must be unique, got ${JSON.stringify(ids)}.`,
    );
  }
}

/** Encodes text. Removes special tokens that a tokenizer returned for text despite the contract. */
export function encodeText(tokenizer: TextTokenizer, text: string): number[] {
  const special = new Set<number | undefined>(Object.values(tokenizer.special));
  return Array.from(tokenizer.encode(text)).filter((id) => !special.has(id));
}
