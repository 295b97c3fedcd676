import { checkConfig, rule, type ConfigRule } from '@flamingo-ts/kernels';

const tokenIds = rule.list<readonly number[]>(rule.integer({ min: 0 }));

const SAMPLING_RULES = {
  temperature: rule.optional(rule.number({ above: 0 })),
  topK: rule.optional(rule.size),
  topP: rule.optional(rule.number({ above: 0, max: 1 })),
  minTokensToKeep: rule.optional(rule.size),
};

/** For options that other code checks. */
const unchecked: ConfigRule = { expected: 'any value', isOptional: true, find: () => undefined };

const DECODING_RULES = {
  ...SAMPLING_RULES,
  maxNewTokens: rule.size,
  stopTokens: rule.optional(tokenIds),
  seed: rule.optional(rule.integer()),
  beams: rule.optional(rule.size),
  lengthPenalty: rule.optional(rule.number()),
  earlyStopping: rule.optional(rule.oneOf([true, false, 'never'])),
  rules: rule.optional(rule.oneOf(['current', 'transformers-4.2x'])),
  repetitionPenalty: rule.optional(rule.number({ above: 0 })),
  noRepeatNgram: rule.optional(rule.size),
  allowedAnswers: rule.optional(rule.list(rule.list(tokenIds))),
  stopStrings: rule.optional(rule.list(rule.string)),
  onToken: rule.optional(rule.callback),
  context: rule.optional(rule.callback),
  tokenizer: unchecked,
};

/**
 * Checks the options of a public decoding function.
 *
 * @param what the function, for the error message
 * @throws Error naming the first option that is unknown or out of range
 */
export function checkDecodingOptions(what: string, options: object): void {
  checkConfig<Record<string, unknown>>(what, options as Record<string, unknown>, DECODING_RULES);
}

/** The same for options of sampling alone. */
export function checkSamplingOptions(what: string, options: object): void {
  checkConfig<Record<string, unknown>>(what, options as Record<string, unknown>, SAMPLING_RULES);
}
