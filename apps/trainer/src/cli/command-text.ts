import { InvalidArgumentError } from 'commander';

/** Parses the value of an option as a whole number of at least `least`. */
export function wholeNumberFrom(least: number): (value: string) => number {
  return (value) => {
    if (!/^\d+$/.test(value) || Number(value) < least) {
      throw new InvalidArgumentError(`It must be a whole number of at least ${least}.`);
    }
    return Number(value);
  };
}

/** The reasons why something was dropped, on one line: `no text (2), not JSON (1)`. */
export function reasonList(dropped: Readonly<Record<string, number>>): string {
  return Object.entries(dropped)
    .map(([reason, count]) => `${reason} (${count})`)
    .join(', ');
}

/** A line for each reason why something was dropped, most frequent first. */
export function reasonLines(dropped: Readonly<Record<string, number>>): string[] {
  return Object.entries(dropped)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${String(count).padStart(8)}  ${reason}`);
}
