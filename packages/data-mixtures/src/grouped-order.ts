import { shuffledIndex } from '@flamingo-ts/random';

/**
 * A shuffled order of documents in groups (shards, row groups) that keeps only some groups in use at a time. Every epoch has
 * its own order of groups, and the documents of each `window` adjacent groups are shuffled together. Positions are computed,
 * so the order needs no list of documents and resumes anywhere without replay.
 */
export class GroupedOrder {
  readonly length: number;
  /** Index of the first document of each group, and the total. */
  private readonly starts: readonly number[];
  private epochs: { readonly name: string; readonly groups: readonly number[]; readonly starts: readonly number[] }[] =
    [];

  constructor(
    private readonly counts: readonly number[],
    private readonly window: number,
  ) {
    this.starts = startsOf(counts);
    this.length = this.starts[counts.length]!;
  }

  /** The group of a document and its number in the group. */
  locate(index: number): { readonly group: number; readonly number: number } {
    const group = placeIn(this.starts, index);
    return { group, number: index - this.starts[group]! };
  }

  /** The document at a place of the order seeded by the keys. */
  shuffled(place: number, ...keys: readonly (number | string)[]): number {
    const { groups, starts } = this.epoch(keys);
    const first = Math.floor(placeIn(starts, place) / this.window) * this.window;
    const from = starts[first]!;
    const to = starts[Math.min(first + this.window, groups.length)]!;
    const drawn = from + shuffledIndex(place - from, to - from, ...keys, 'documents', first);
    const at = placeIn(starts, drawn);
    return this.starts[groups[at]!]! + drawn - starts[at]!;
  }

  private epoch(keys: readonly (number | string)[]) {
    const name = keys.join('\0');
    let epoch = this.epochs.find((e) => e.name === name);
    if (!epoch) {
      const { counts } = this;
      const groups = counts.map((_, i) => shuffledIndex(i, counts.length, ...keys, 'groups'));
      epoch = { name, groups, starts: startsOf(groups.map((group) => counts[group]!)) };
      // Keeps the previous epoch: a step at the boundary needs both.
      this.epochs = [epoch, ...this.epochs.slice(0, 1)];
    }
    return epoch;
  }
}

function startsOf(counts: readonly number[]): number[] {
  const starts = [0];
  for (const count of counts) starts.push(starts[starts.length - 1]! + count);
  return starts;
}

/** Number of the last group that starts at or before `i`. Of groups with the same start, all but the last are empty. */
function placeIn(starts: readonly number[], i: number): number {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle]! <= i) low = middle;
    else high = middle - 1;
  }
  return low;
}
