import * as tf from '@tensorflow/tfjs-core';
import { hiddenStates, type CausalLM, type LMContext } from './causal-lm';
import { KVCache } from './kv-cache';

/** One call of the model while decoding, as a context factory sees it. */
export interface DecodingCall {
  /** Key mask and cache; spread them into the context that you return. */
  readonly base: LMContext;
  /** Token ids of this call, rows of equal length: first the prompts, padded on the left, then their continuations. */
  readonly tokens: readonly (readonly number[])[];
  /** For each row, the index of the prompt that it continues. */
  readonly prompts: readonly number[];
  /** For each row, the number of padding tokens on the left of its prompt. */
  readonly padding: readonly number[];
  /** Positions in the cache before this call, padding included; 0 for the call that reads the prompts. */
  readonly past: number;
}

/**
 * Makes the context of one call of the model. It is called inside `tf.tidy`: use `tf.keep` for tensors that must live
 * longer. A model with images learns here which prompt each row belongs to.
 */
export type ContextFactory<C extends LMContext> = (call: DecodingCall) => C;

/** Required for a model whose context must hold more than text; optional for all others. */
export type ContextOption<C extends LMContext> = LMContext extends C
  ? { readonly context?: ContextFactory<C> }
  : { readonly context: ContextFactory<C> };

/** What decoding needs from a model: logits after each prompt, then after one more token per row. */
export interface Stepper {
  /** Token ids of each prompt. */
  readonly prompts: readonly (readonly number[])[];
  /** Logits `[vocabSize]` after each prompt. */
  start(): Promise<Float32Array[]>;
  /** Continues row `parents[i]` of the previous call with `tokens[i]`, as row `i`. Returns the logits of each new row. */
  next(parents: readonly number[], tokens: readonly number[]): Promise<Float32Array[]>;
}

interface Row {
  readonly prompt: number;
  readonly padding: number;
  /** 1 = real, for each key so far. */
  readonly mask: readonly number[];
}

/** Decodes prompts with a model. Keeps the cache, and the padding and prompt of each row. */
export class DecodingSession<C extends LMContext> implements Stepper {
  private rows: Row[] = [];

  private constructor(
    private readonly lm: CausalLM<C>,
    readonly prompts: readonly (readonly number[])[],
    private readonly contextOf: ContextFactory<C>,
    private readonly cache: KVCache,
  ) {}

  /**
   * @param lm        the model
   * @param prompts   token ids, at least one each; different lengths are padded on the left
   * @param contextOf makes the context of each call; defaults to key mask and cache alone
   */
  static open<C extends LMContext>(
    lm: CausalLM<C>,
    prompts: readonly (readonly number[])[],
    contextOf: ContextFactory<C> = (call) => call.base as C,
  ): DecodingSession<C> {
    prompts.forEach((prompt, i) => checkTokens(`prompt ${i}`, prompt, lm.vocabSize));
    return new DecodingSession(lm, prompts, contextOf, new KVCache(lm.blocks.length));
  }

  async start(): Promise<Float32Array[]> {
    const lengths = this.prompts.map((prompt) => prompt.length);
    const width = Math.max(0, ...lengths);
    this.rows = this.prompts.map((prompt, i) => ({
      prompt: i,
      padding: width - prompt.length,
      mask: new Array<number>(width - prompt.length).fill(0),
    }));
    const padded = this.prompts.map((prompt, i) => [...new Array<number>(this.rows[i]!.padding).fill(0), ...prompt]);
    return this.feed(padded, lengths, 'last');
  }

  async next(parents: readonly number[], tokens: readonly number[]): Promise<Float32Array[]> {
    this.cache.gather(parents);
    this.rows = parents.map((parent) => this.rows[parent]!);
    return this.feed(
      tokens.map((token) => [token]),
      tokens.map(() => 1),
      'last',
    );
  }

  /** An independent session whose row `i` starts as row `rows[i]` of this one. */
  fork(rows: readonly number[]): DecodingSession<C> {
    const copy = new DecodingSession(this.lm, this.prompts, this.contextOf, this.cache.fork(rows));
    copy.rows = rows.map((row) => this.rows[row]!);
    return copy;
  }

  /** Continues every row by several tokens, padded on the right to equal length. Returns the logits after each, row by row. */
  async extend(tokens: readonly (readonly number[])[]): Promise<Float32Array[]> {
    const lengths = tokens.map((row) => row.length);
    const width = Math.max(...lengths);
    const padded = tokens.map((row) => [...row, ...new Array<number>(width - row.length).fill(0)]);
    return this.feed(padded, lengths, 'real');
  }

  dispose(): void {
    this.cache.dispose();
  }

  /**
   * Runs the model on `[rows][text]` tokens, padded on the left in the first call and on the right later.
   * `which`: logits of the last position of each row, or of every real position.
   */
  private async feed(
    tokens: readonly (readonly number[])[],
    lengths: readonly number[],
    which: 'last' | 'real',
  ): Promise<Float32Array[]> {
    if (tokens.length === 0) return [];
    const text = tokens[0]!.length;
    const past = this.cache.length;
    this.rows = this.rows.map((row, i) => {
      const padding = new Array<number>(text - lengths[i]!).fill(0);
      const real = new Array<number>(lengths[i]!).fill(1);
      return { ...row, mask: past === 0 ? [...padding, ...real] : [...row.mask, ...real, ...padding] };
    });
    const wanted = tokens.flatMap((_, i) =>
      which === 'last'
        ? [i * text + text - 1]
        : Array.from({ length: lengths[i]! }, (__, position) => i * text + position),
    );
    const logits = tf.tidy(() => {
      const context = this.contextOf({
        base: { keyMask: this.keyMask(), cache: this.cache },
        tokens,
        prompts: this.rows.map((row) => row.prompt),
        padding: this.rows.map((row) => row.padding),
        past,
      });
      const x = hiddenStates(this.lm, tf.tensor2d(tokens.flat(), [tokens.length, text], 'int32'), context);
      const rows = tf.reshape(x, [tokens.length * text, this.lm.hiddenSize]);
      const kept = wanted.length === rows.shape[0] ? rows : tf.gather(rows, tf.tensor1d(wanted, 'int32'));
      return this.lm.logits(tf.reshape(kept, [1, wanted.length, this.lm.hiddenSize]));
    });
    const values = (await logits.data()) as Float32Array;
    logits.dispose();
    const vocab = this.lm.vocabSize;
    return wanted.map((_, i) => values.subarray(i * vocab, (i + 1) * vocab));
  }

  /** Undefined if no row has padding: models are faster without a mask. */
  private keyMask(): tf.Tensor2D | undefined {
    if (this.rows.every((row) => row.mask.every((real) => real === 1))) return undefined;
    return tf.tensor2d(
      this.rows.flatMap((row) => row.mask),
      [this.rows.length, this.rows[0]!.mask.length],
    );
  }
}

/** @throws Error if there is no token, or one that the model has no embedding for */
export function checkTokens(what: string, tokens: readonly number[], vocabSize: number): void {
  if (tokens.length === 0) {
    throw new Error(`${what}: expected at least one token, got none. Begin with the beginning-of-text token.`);
  }
  const stray = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize);
  if (stray !== undefined) {
    throw new Error(
      `${what}: token ids must be whole numbers below the model's vocabSize ${vocabSize}, got ${stray}. ` +
        'Check that tokenizer and model belong together (checkVocabulary).',
    );
  }
}
