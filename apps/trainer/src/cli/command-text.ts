import { InvalidArgumentError } from 'commander';

/** Reads an option's value as a whole number from this one up. */
export function wholeNumberFrom(least: number): (value: string) => number {
  return (value) => {
    if (!/^\d+$/.test(value) || Number(value) < least) {
      throw new InvalidArgumentError(`It must be a whole number from ${least}.`);
    }
    return Number(value);
  };
}

/** A line for each reason that something was left out, the most frequent first. */
export function reasonLines(dropped: Readonly<Record<string, number>>): string[] {
  return Object.entries(dropped)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${String(count).padStart(8)}  ${reason}`);
}
