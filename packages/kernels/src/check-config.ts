/** What one config value must be; made by `rule`. */
export interface ConfigRule<T = unknown> {
  /** Completes "must be ..." in errors. */
  readonly expected: string;
  readonly isOptional?: boolean;
  /** The first mismatch inside a value, or undefined. */
  find(value: unknown, key: string): Mismatch | undefined;
  /** Only for the type checker: ties the rule to the type of the value. */
  readonly type?: T;
}

/** One rule for each key of a config, optional keys included. */
export type ConfigRules<C> = { readonly [K in keyof C]-?: ConfigRule<C[K]> };

interface Mismatch {
  /** Path of the value: `width`, `depths[2]`, `norm.kind`. */
  readonly key: string;
  /** `must be a whole number of at least 1, got 0` */
  readonly problem: string;
  readonly fix?: string;
}

/**
 * Checks a config or an options object once, at the start of a constructor or function: unknown keys, missing keys and the
 * value of every key.
 *
 * @param what   the class or function, which starts error messages
 * @param config the value to check, of any type
 * @param rules  one for each key
 * @throws Error with the first wrong key, what was expected, what was passed and how to fix it
 *
 * @example
 * const RULES: ConfigRules<TowerConfig> = {
 *   hiddenSize: rule.size,
 *   depths: rule.list(rule.size),
 *   activation: rule.oneOf(ACTIVATIONS),
 *   finalNorm: rule.boolean,
 *   dropRate: rule.optional(rule.number({ min: 0, below: 1 })),
 * };
 * checkConfig('Tower', config, RULES);
 */
export function checkConfig<C extends object>(what: string, config: C, rules: ConfigRules<C>): void {
  if (!isRecord(config)) {
    throw new Error(`${what}: expected an object, got ${show(config)}. Pass { ${Object.keys(rules).join(', ')} }.`);
  }
  report(what, findInObject(config, rules as AnyRules, ''));
}

/**
 * Checks one argument of a public function by the same rules.
 *
 * @example checkValue('activation', 'kind', kind, rule.oneOf(ACTIVATIONS));
 */
export function checkValue<T>(what: string, name: string, value: T, expected: ConfigRule<T>): void {
  report(what, findValue(value, expected as ConfigRule, name));
}

/** Bounds of a number. */
interface Range {
  /** At least. */
  readonly min?: number;
  /** Greater than. */
  readonly above?: number;
  /** At most. */
  readonly max?: number;
  /** Less than. */
  readonly below?: number;
}

/** Rules for the values of a config. */
export const rule = {
  /** A whole number of at least 1: widths, depths, numbers of heads. */
  size: integer({ min: 1 }),
  /** A whole number, within bounds if given. */
  integer,
  /** A finite number, within bounds if given. */
  number: (range: Range = {}): ConfigRule<number> =>
    // Two bounds already exclude infinities.
    leaf(
      `a ${hasBothBounds(range) ? '' : 'finite '}number${describe(range)}`,
      (value) => Number.isFinite(value) && isWithin(value as number, range),
    ),
  boolean: leaf<boolean>('true or false', (value) => typeof value === 'boolean'),
  string: leaf<string>('a string', (value) => typeof value === 'string'),
  /** A function of any kind. */
  callback: leaf<(...args: never[]) => unknown>('a function', (value) => typeof value === 'function'),
  /** One of these values. The error lists them. */
  oneOf: <const T extends string | number | boolean>(allowed: readonly T[]): ConfigRule<T> =>
    leaf<T>(`one of ${allowed.join(', ')}`, (value) => (allowed as readonly unknown[]).includes(value)),
  /** An array whose elements follow one rule, of exactly this length if given. */
  list: <T extends readonly unknown[]>(each: ConfigRule<T[number]>, length?: number): ConfigRule<T> => {
    const expected = `an array${length === undefined ? ', each element' : ` of ${length} elements, each`} ${each.expected}`;
    return {
      expected,
      find(value, key) {
        if (!Array.isArray(value) || (length !== undefined && value.length !== length)) {
          return mismatch(key, expected, value);
        }
        return first(
          value.map((_, i) => i),
          (i) => findValue(value[i], each as ConfigRule, `${key}[${i}]`),
        );
      },
    };
  },
  /** A value that fits one of two rules. */
  either: <A, B>(a: ConfigRule<A>, b: ConfigRule<B>): ConfigRule<A | B> => {
    const expected = `${a.expected} or ${b.expected}`;
    return {
      expected,
      find: (value, key) => (a.find(value, key) && b.find(value, key) ? mismatch(key, expected, value) : undefined),
    };
  },
  /** A nested config. */
  object: <C extends object>(rules: ConfigRules<C>): ConfigRule<C> => {
    const expected = `an object with ${Object.keys(rules).join(', ')}`;
    return {
      expected,
      find: (value, key) =>
        isRecord(value) ? findInObject(value, rules as AnyRules, `${key}.`) : mismatch(key, expected, value),
    };
  },
  /** A nested config whose `kind` decides about its other keys. */
  kinds: <C extends { readonly kind: string }>(kinds: {
    readonly [K in C['kind']]: ConfigRules<Omit<Extract<C, { readonly kind: K }>, 'kind'>>;
  }): ConfigRule<C> => {
    const names = Object.keys(kinds);
    const expected = `an object whose kind is one of ${names.join(', ')}`;
    return {
      expected,
      find(value, key) {
        if (!isRecord(value)) return mismatch(key, expected, value);
        const kind = rule.oneOf(names);
        const rules = names.includes(value['kind'] as string)
          ? (kinds as Record<string, AnyRules>)[value['kind'] as string]
          : {};
        return findInObject(value, { kind, ...rules }, `${key}.`);
      },
    };
  },
  /** The key may be absent or undefined. */
  optional: <T>(of: ConfigRule<T>): ConfigRule<T | undefined> =>
    ({ ...of, isOptional: true }) as ConfigRule<T | undefined>,
};

type AnyRules = Readonly<Record<string, ConfigRule>>;

function integer(range: Range = {}): ConfigRule<number> {
  return leaf(
    `a whole number${describe(range)}`,
    (value) => Number.isSafeInteger(value) && isWithin(value as number, range),
  );
}

function leaf<T>(expected: string, accepts: (value: unknown) => boolean): ConfigRule<T> {
  return { expected, find: (value, key) => (accepts(value) ? undefined : mismatch(key, expected, value)) };
}

function describe({ min, above, max, below }: Range): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  const bounds = [
    min !== undefined && `of at least ${min}`,
    above !== undefined && `greater than ${above}`,
    max !== undefined && `at most ${max}`,
    below !== undefined && `less than ${below}`,
  ].filter(Boolean);
  return bounds.length ? ` ${bounds.join(' and ')}` : '';
}

function hasBothBounds({ min, above, max, below }: Range): boolean {
  return (min ?? above) !== undefined && (max ?? below) !== undefined;
}

function isWithin(x: number, { min = -Infinity, above = -Infinity, max = Infinity, below = Infinity }: Range): boolean {
  return x >= min && x > above && x <= max && x < below;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function findInObject(
  config: Readonly<Record<string, unknown>>,
  rules: AnyRules,
  prefix: string,
): Mismatch | undefined {
  const known = Object.keys(rules);
  const unknown = Object.keys(config).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    const near = known.find((key) => isNear(key, unknown));
    const fix = near ? `Did you mean ${prefix}${near}?` : 'Remove it.';
    return { key: prefix + unknown, problem: `is not a known key, expected only ${known.join(', ')}`, fix };
  }
  return first(known, (key) => findValue(config[key], rules[key]!, prefix + key));
}

function findValue(value: unknown, expected: ConfigRule, key: string): Mismatch | undefined {
  return value === undefined && expected.isOptional ? undefined : expected.find(value, key);
}

function mismatch(key: string, expected: string, value: unknown): Mismatch {
  return { key, problem: `must be ${expected}, got ${show(value)}`, ...fixOf(value) };
}

function fixOf(value: unknown): { readonly fix?: string } {
  if (value === undefined) return { fix: 'Add it.' };
  const isQuoted = typeof value === 'string' && value.trim() !== '' && Number.isFinite(Number(value));
  return isQuoted ? { fix: 'Remove the quotes if it is a number.' } : {};
}

function first<T>(items: readonly T[], find: (item: T) => Mismatch | undefined): Mismatch | undefined {
  for (const item of items) {
    const mismatch = find(item);
    if (mismatch) return mismatch;
  }
  return undefined;
}

function report(what: string, mismatch: Mismatch | undefined): void {
  if (!mismatch) return;
  const { key, problem, fix } = mismatch;
  throw new Error(`${what}: ${key} ${problem}.${fix ? ` ${fix}` : ''}`);
}

/** Whether two keys differ by case, or by one typo: a letter added, lost, changed or swapped with its neighbor. */
function isNear(a: string, b: string): boolean {
  const [x, y] = [a.toLowerCase(), b.toLowerCase()];
  let start = 0;
  while (start < Math.min(x.length, y.length) && x[start] === y[start]) start++;
  let end = 0;
  while (end < Math.min(x.length, y.length) - start && x.at(-1 - end) === y.at(-1 - end)) end++;
  const [restX, restY] = [x.slice(start, x.length - end), y.slice(start, y.length - end)];
  const isSwap = restX.length === 2 && restX === [...restY].reverse().join('');
  return Math.max(restX.length, restY.length) <= 1 || isSwap;
}

/** A value as an error prints it. */
function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(show).join(', ')}]`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'object' && value !== null)
    return `an object with ${Object.keys(value).join(', ') || 'no keys'}`;
  return String(value);
}
