const MAX_EXAMPLES = 100;

export interface Fault {
  /** The file, and the line, member or row in it. */
  readonly where: string;
  readonly reason: string;
  readonly detail?: string | undefined;
}

/** Counts problems by reason and keeps the first hundred examples. */
export class Faults {
  private readonly tally = new Map<string, number>();
  private readonly kept: Fault[] = [];

  /** Adds up the counts of several and joins their examples. */
  static merge(all: readonly Faults[]): Faults {
    const sum = new Faults();
    for (const { tally, kept } of all) {
      for (const [reason, count] of tally) sum.tally.set(reason, (sum.tally.get(reason) ?? 0) + count);
      sum.kept.push(...kept.slice(0, MAX_EXAMPLES - sum.kept.length));
    }
    return sum;
  }

  add(reason: string, where: string, detail?: string): void {
    this.tally.set(reason, (this.tally.get(reason) ?? 0) + 1);
    if (this.kept.length < MAX_EXAMPLES) this.kept.push({ where, reason, detail });
  }

  /** How often each reason occurred. */
  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.tally);
  }

  get examples(): readonly Fault[] {
    return this.kept;
  }
}

/** Formats counts for a message: `not JSON (2), no text (1)`. */
export const summarize = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts)
    .map(([reason, count]) => `${reason} (${count})`)
    .join(', ');
