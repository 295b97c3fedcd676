/** Restricts answers, for all decoding methods. Applied in this order, before temperature. */
export interface RuleOptions {
  /**
   * Makes tokens that occur in the prompt or in the answer so far less likely, regardless of how often: positive logits are
   * divided by it, negative ones multiplied, as in Hugging Face's `RepetitionPenaltyLogitsProcessor`. (Keskar et al. 2019,
   * section 4.1, use 1.2 and only divide.) Beam search applies it to log-probabilities, as Hugging Face does. Defaults to 1.
   */
  readonly repetitionPenalty?: number;
  /**
   * No sequence of this many tokens in the answer repeats one of the prompt or the answer, stop tokens included (Hugging
   * Face's `no_repeat_ngram_size`).
   */
  readonly noRepeatNgram?: number;
  /**
   * For each prompt, the token ids of the only answers allowed, as for `scoreCandidates`. Each is followed by one of
   * `stopTokens`, which must not be part of it. With one stop token, one beam per answer and `lengthPenalty` 0, beam search
   * finds the answer with the highest log-likelihood, including the stop token's.
   */
  readonly allowedAnswers?: readonly (readonly (readonly number[])[])[];
}

interface Ending {
  readonly maxNewTokens: number;
  readonly stopTokens?: readonly number[];
}

/** Changes the scores of a next token in place: logits, or log-probabilities in a beam search. */
export type LogitsRule = (scores: Float32Array | Float64Array, answer: readonly number[], prompt: number) => void;

/** The options as one rule; undefined if there are none, so that decoding does not copy its logits. */
export function logitsRule(
  prompts: readonly (readonly number[])[],
  options: RuleOptions & Ending,
): LogitsRule | undefined {
  const { repetitionPenalty, noRepeatNgram, allowedAnswers } = options;
  const rules: LogitsRule[] = [];
  if (repetitionPenalty !== undefined) rules.push(penalty(prompts, repetitionPenalty));
  if (noRepeatNgram !== undefined) rules.push(noRepeat(prompts, noRepeatNgram));
  if (allowedAnswers) rules.push(allowed(prompts, allowedAnswers, options));
  if (rules.length === 0) return undefined;
  return (scores, answer, prompt) => rules.forEach((rule) => rule(scores, answer, prompt));
}

/** The error for rules that exclude every token. */
export function nothingLeft(prompt: number, answered: number): Error {
  return new Error(
    `generate: after ${answered} tokens of the answer to prompt ${prompt}, expected a token that may follow, got none: ` +
      'noRepeatNgram and allowedAnswers exclude them all. Raise noRepeatNgram, or omit it.',
  );
}

function penalty(prompts: readonly (readonly number[])[], by: number): LogitsRule {
  return (scores, answer, prompt) => {
    for (const token of new Set([...prompts[prompt]!, ...answer])) {
      const score = scores[token]!;
      scores[token] = score < 0 ? score * by : score / by;
    }
  };
}

function noRepeat(prompts: readonly (readonly number[])[], n: number): LogitsRule {
  return (scores, answer, prompt) => {
    const tokens = [...prompts[prompt]!, ...answer];
    const begun = tokens.length - (n - 1); // Start of the n-gram that the next token completes.
    for (let start = 0; start < begun; start++) {
      let same = 0;
      while (same < n - 1 && tokens[start + same] === tokens[begun + same]) same++;
      if (same === n - 1) scores[tokens[start + same]!] = -Infinity;
    }
  };
}

/** The answers with a common prefix. */
interface Branch {
  readonly next: Map<number, Branch>;
  /** Whether one of the answers ends here. */
  complete: boolean;
}

function allowed(
  prompts: readonly (readonly number[])[],
  allowedAnswers: NonNullable<RuleOptions['allowedAnswers']>,
  { maxNewTokens, stopTokens = [] }: Ending,
): LogitsRule {
  if (stopTokens.length === 0) {
    throw new Error(
      'generate: allowedAnswers requires stopTokens, expected at least one, got none. Pass the token that ends an answer.',
    );
  }
  if (allowedAnswers.length !== prompts.length) {
    throw new Error(
      `generate: allowedAnswers must have one list per prompt, ${prompts.length} in total, got ${allowedAnswers.length}. ` +
        'For the same answers to every prompt, pass prompts.map(() => answers).',
    );
  }
  const roots = allowedAnswers.map((answers, prompt) => {
    answers.forEach((answer, i) => checkAnswer(`answer ${i} of prompt ${prompt}`, answer, maxNewTokens, stopTokens));
    return tree(answers, prompt);
  });
  return (scores, answer, prompt) => {
    const at = answer.reduce((branch, token) => branch.next.get(token)!, roots[prompt]!);
    const open = [...at.next.keys(), ...(at.complete ? stopTokens : [])];
    const kept = open.map((token) => scores[token]!);
    scores.fill(-Infinity);
    open.forEach((token, i) => (scores[token] = kept[i]!));
  };
}

function checkAnswer(what: string, answer: readonly number[], maxNewTokens: number, stopTokens: readonly number[]) {
  const stop = answer.find((token) => stopTokens.includes(token));
  if (stop !== undefined) {
    throw new Error(
      `generate: allowedAnswers must not contain stop tokens, got ${stop} in ${what}. ` +
        'Remove it: every answer is followed by one.',
    );
  }
  if (answer.length + 1 > maxNewTokens) {
    throw new Error(
      `generate: allowedAnswers must fit into maxNewTokens ${maxNewTokens}, got ${answer.length} tokens and the stop ` +
        `token in ${what}. Raise maxNewTokens to ${answer.length + 1}.`,
    );
  }
}

function tree(answers: readonly (readonly number[])[], prompt: number): Branch {
  if (answers.length === 0) {
    throw new Error(
      `generate: allowedAnswers must have at least one answer for each prompt, got none for prompt ${prompt}. ` +
        'Add one, or decode that prompt by itself without allowedAnswers.',
    );
  }
  const root: Branch = { next: new Map(), complete: false };
  for (const answer of answers) {
    let at = root;
    for (const token of answer) {
      let branch = at.next.get(token);
      if (!branch) at.next.set(token, (branch = { next: new Map(), complete: false }));
      at = branch;
    }
    at.complete = true;
  }
  return root;
}
