import type { Tokenizer } from './tokenizer';

/** How answers become text; the same in every way of decoding. */
export interface TextOptions {
  /** Gives answers their `text`; needed for `stopStrings`. */
  readonly tokenizer?: Pick<Tokenizer, 'decode'>;
  /** An answer ends with the token that completes one of them in its text, wherever in a token it begins or ends. */
  readonly stopStrings?: readonly string[];
}

/** The text of an answer so far. Appending makes another one: beams share what they have in common. */
export interface AnswerText {
  /** Its complete characters, cut before the stop string if there is one. */
  readonly text: string;
  /** What ended it. */
  readonly stopString?: string;
  /** The last tokens: those still to be read, and some before them. */
  readonly window: readonly number[];
  /** How many tokens of the window, and how many characters of their text, are part of `text`. */
  readonly read: { readonly tokens: number; readonly characters: number };
}

/** What decoders write for bytes that are not, or not yet, a character. */
const INCOMPLETE = /\uFFFD+$/;

/** Reads answers token by token; bytes of a character that is not complete wait for the rest of it. */
export class TextReader {
  /** An answer without tokens. */
  readonly nothing: AnswerText = { text: '', window: [], read: { tokens: 0, characters: 0 } };

  private constructor(
    private readonly tokenizer: Pick<Tokenizer, 'decode'>,
    private readonly stopStrings: readonly string[],
  ) {}

  /**
   * A reader if the options want text.
   *
   * @throws Error when there is a stop string that is empty, or one and no tokenizer
   */
  static of({ tokenizer, stopStrings = [] }: TextOptions): TextReader | undefined {
    if (stopStrings.includes('')) {
      throw new Error("generate: stopStrings must be texts of at least one character, got ''. Leave it out.");
    }
    if (tokenizer && typeof tokenizer.decode !== 'function') {
      throw new Error('generate: tokenizer must have a method decode, got none. Pass what loadTokenizer returns.');
    }
    if (tokenizer) return new TextReader(tokenizer, stopStrings);
    if (stopStrings.length === 0) return undefined;
    throw new Error(
      `generate: expected a tokenizer beside stopStrings ${JSON.stringify(stopStrings)}, got none. ` +
        'Pass the one that made the prompts, or token ids as stopTokens.',
    );
  }

  /** The text with one token more. */
  append(before: AnswerText, token: number): AnswerText {
    const window = [...before.window, token];
    const whole = this.tokenizer.decode(window);
    const complete = whole.replace(INCOMPLETE, '');
    // A decoder may treat the first token it gets in its own way: SentencePiece drops a space there. So a token is always
    // decoded after some before it, and the window moves on only to where a character ends.
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

  /** How many characters of a text stay as they are whatever follows: all but what may become a stop string. */
  certain(text: string): number {
    let open = 0;
    for (const stop of this.stopStrings) {
      for (let begun = Math.min(stop.length - 1, text.length); begun > open; begun--) {
        if (text.endsWith(stop.slice(0, begun))) open = begun;
      }
    }
    return text.length - open;
  }

  /** The text with a piece more, up to the first stop string in it. */
  private cut(before: string, piece: string): Pick<AnswerText, 'text' | 'stopString'> {
    const text = before + piece;
    const found = this.stopStrings
      .map((stopString) => ({
        stopString,
        at: text.indexOf(stopString, Math.max(0, before.length - stopString.length + 1)),
      }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at - b.at)[0];
    return found ? { text: text.slice(0, found.at), stopString: found.stopString } : { text };
  }
}

/** What a finished answer says of its text: nothing without a tokenizer. */
export function shownText(text: AnswerText | undefined): { text?: string; stopString?: string } {
  if (!text) return {};
  return text.stopString === undefined ? { text: text.text } : { text: text.text, stopString: text.stopString };
}
