import type { Unigram } from '@huggingface/tokenizers';

/**
 * Unigram segmentation (Kudo 2018) as the `tokenizers` library computes it. The JavaScript port of that library overflows
 * the stack on long words, and matches special tokens that a text spells out.
 *
 * @param ids         ids of the tokens that text may become
 * @param unknown     id of the unknown token
 * @param byteFallback whether an unknown character becomes its bytes, where the vocabulary has them
 */
export function unigramEncoder(
  { trie, scores, unk_score }: Unigram,
  ids: ReadonlyMap<string, number>,
  unknown: number | undefined,
  byteFallback: boolean,
): (word: string) => number[] {
  const unknownIds = (text: string): number[] => {
    const whole = ids.get(text);
    if (whole !== undefined) return [whole];
    const bytes = byteFallback ? [...new TextEncoder().encode(text)].map((byte) => ids.get(byteToken(byte))) : [];
    if (bytes.length > 0 && bytes.every((id) => id !== undefined)) return bytes;
    if (unknown !== undefined) return [unknown];
    throw new Error(
      `tokenizer: ${JSON.stringify(text.slice(0, 40))} has no tokens, and the unigram model has no unk_id. ` +
        'Use a tokenizer.json with model.unk_id, or remove these characters.',
    );
  };

  return (word) => {
    const chars = Array.from(word);
    const best = new Float64Array(chars.length + 1).fill(-Infinity);
    const from = new Int32Array(chars.length + 1);
    // The token that ends here on the best path; -1 for an unknown character.
    const token = new Int32Array(chars.length + 1);
    best[0] = 0;
    const reach = (end: number, begin: number, id: number, score: number) => {
      if (!(best[begin]! + score > best[end]!)) return;
      best[end] = best[begin]! + score;
      from[end] = begin;
      token[end] = id;
    };
    for (let begin = 0; begin < chars.length; begin++) {
      let knowsCharacter = false;
      let end = begin;
      let length = 0;
      for (const text of trie.common_prefix_search(chars, begin) as Iterable<string>) {
        while (length < text.length) length += chars[end++]!.length;
        const id = ids.get(text);
        if (id === undefined || id === unknown) continue;
        reach(end, begin, id, scores[id]!);
        knowsCharacter ||= end === begin + 1;
      }
      if (!knowsCharacter) reach(begin + 1, begin, -1, unk_score);
    }

    const path: number[][] = [];
    for (let end = chars.length; end > 0;) {
      let begin = from[end]!;
      if (token[end]! >= 0) path.push([token[end]!]);
      else {
        // Consecutive unknown characters become one unknown token.
        while (begin > 0 && token[begin] === -1) begin = from[begin]!;
        path.push(unknownIds(chars.slice(begin, end).join('')));
      }
      end = begin;
    }
    return path.reverse().flat();
  };
}

/** Name of the token of one byte. */
function byteToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}
