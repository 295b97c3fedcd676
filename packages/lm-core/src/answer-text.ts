import type { Tokenizer } from './tokenizer';

/** Options for the text of answers, for all decoding methods. */
export interface TextOptions {
  /** Adds a `text` to answers; required for `stopStrings`. */
  readonly tokenizer?: Pick<Tokenizer, 'decode'>;
  /**
   * An answer ends with the token that completes one of these in its text, even if the string starts or ends inside a token.
   */
  readonly stopStrings?: readonly string[];
}

/** The text of an answer so far. Immutable, so that beams can share it. */
export interface AnswerText {
  /** Its complete characters, cut before the stop string if there is one. */
  readonly text: string;
  /** The stop string that ended it. */
  readonly stopString?: string;
  /** The last tokens: those not yet part of `text`, and some before them. */
  readonly window: readonly number[];
  /** How many tokens of the window, and how many characters of their text, are already part of `text`. */
  readonly read: { readonly tokens: number; readonly characters: number };
}

/** Decoders write this for bytes that are not (yet) a character. */
const INCOMPLETE = /\uFFFD+$/;

/** Converts answers to text token by token; bytes of an incomplete character are held back. */
export class TextReader {
  /** An answer without tokens. */
  readonly nothing: AnswerText = { text: '', window: [], read: { tokens: 0, characters: 0 } };

  private constructor(
    private readonly tokenizer: Pick<Tokenizer, 'decode'>,
    private readonly stopStrings: readonly string[],
  ) {}

  /**
   * Returns a reader if the options have a tokenizer.
   *
   * @throws Error if a stop string is empty, or if there are stop strings without a tokenizer
   */
  static of({ tokenizer, stopStrings = [] }: TextOptions): TextReader | undefined {
    if (stopStrings.includes('')) {
      throw new Error("generate: stopStrings must be strings of at least one character, got ''. Remove it.");
    }
    if (tokenizer && typeof tokenizer.decode !== 'function') {
      throw new Error('generate: tokenizer must have a decode method, got none. Pass what loadTokenizer returns.');
    }
    if (tokenizer) return new TextReader(tokenizer, stopStrings);
    if (stopStrings.length === 0) return undefined;
    throw new Error(
      `generate: stopStrings ${JSON.stringify(stopStrings)} require a tokenizer, got none. ` +
        'Pass the one that encoded the prompts, or pass token ids as stopTokens.',
    );
  }

  /** The text with one more token. */
  append(before: AnswerText, token: number): AnswerText {
    const window = [...before.window, token];
    const whole = this.tokenizer.decode(window);
    const complete = whole.replace(INCOMPLETE, '');
    // Decoders may treat the first token differently: SentencePiece drops a space there. A token is therefore always decoded
    // together with tokens before it, and the window only moves to where a character ends.
    const piece = complete.slice(before.read.characters);
    const settled = piece !== '' && complete === whole;
    const last = window.slice(before.read.tokens);
    const rest = settled
      ? { window: last, read: { tokens: last.length, characters: this.tokenizer.decode(last).length } }
      : {
          window,
          read: { tokens: before.read.tokens, characters: Math.max(before.read.characters, complete.length) },
        };
    return { ...this.cut(before.text, piece), ...rest };
  }

  /** Number of characters that can no longer change: all except an ending that may become a stop string. */
  certain(text: string): number {
    let open = 0;
    for (const stop of this.stopStrings) {
      for (let begun = Math.min(stop.length - 1, text.length); begun > open; begun--) {
        if (text.endsWith(stop.slice(0, begun))) open = begun;
      }
    }
    return text.length - open;
  }

  /** The text with another piece, cut before the first stop string in it. */
  private cut(before: string, piece: string): Pick<AnswerText, 'text' | 'stopString'> {
    const text = before + piece;
    const first = this.stopStrings
      .map((stopString) => ({
        stopString,
        at: text.indexOf(stopString, Math.max(0, before.length - stopString.length + 1)),
      }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at - b.at)[0];
    return first ? { text: text.slice(0, first.at), stopString: first.stopString } : { text };
  }
}

/** The text fields of a finished answer: none without a tokenizer. */
export function shownText(text: AnswerText | undefined): { text?: string; stopString?: string } {
  if (!text) return {};
  return text.stopString === undefined ? { text: text.text } : { text: text.text, stopString: text.stopString };
}
