/** Checks of arguments, which plain JavaScript callers can get wrong. All throw Errors that name the argument. */

export function expectWhole(what: string, value: unknown, least: number): void {
  if (!(Number.isSafeInteger(value) && (value as number) >= least))
    fail(what, `a whole number of at least ${least}`, value);
}

export function expectProbability(what: string, value: unknown): void {
  if (!(typeof value === 'number' && value >= 0 && value <= 1)) fail(what, 'a number from 0 to 1', value);
}

/** Channel means or standard deviations. */
export function expectColor(what: string, value: unknown, isPositive = false): void {
  const fits = (n: unknown) => typeof n === 'number' && Number.isFinite(n) && (n > 0 || !isPositive);
  if (Array.isArray(value) && value.length === 3 && value.every(fits)) return;
  fail(what, isPositive ? 'three numbers above 0' : 'three numbers', value);
}

export function expectOneOf(what: string, value: unknown, allowed: readonly unknown[]): void {
  if (!allowed.includes(value)) fail(what, `one of ${allowed.join(', ')}`, value);
}

export function fail(what: string, expected: string, got: unknown): never {
  throw new Error(`${what} must be ${expected}, got ${typeof got === 'object' ? JSON.stringify(got) : String(got)}.`);
}
