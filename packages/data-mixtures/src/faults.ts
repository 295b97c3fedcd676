const MAX_EXAMPLES = 100;

/** Counts what was left out, by reason, and keeps the first hundred places. */
export class Faults {
  private readonly tally = new Map<string, number>();
  private readonly kept: { readonly where: string; readonly reason: string }[] = [];

  /** @param where the file and the line, member or row in it */
  add(reason: string, where: string): void {
    this.tally.set(reason, (this.tally.get(reason) ?? 0) + 1);
    if (this.kept.length < MAX_EXAMPLES) this.kept.push({ where, reason });
  }

  /** How often each reason came. */
  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.tally);
  }

  get examples(): readonly { readonly where: string; readonly reason: string }[] {
    return this.kept;
  }
}
