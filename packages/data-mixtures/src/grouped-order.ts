import { shuffledIndex } from '@flamingo-ts/random';

/**
 * An order for documents that lie in groups (shards, row groups) of which only some should be held at a time. Every epoch
 * the groups come in an order of their own, and the documents of `window` groups that follow one another are shuffled
 * together. A place is computed, not looked up: no list of documents is needed, and no replay to go on from anywhere.
 */
export class GroupedOrder {
  readonly length: number;
  /** Where each group begins, and the end of all. */
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

  /** The group of a document and its number in it. */
  locate(index: number): { readonly group: number; readonly number: number } {
    const group = placeIn(this.starts, index);
    return { group, number: index - this.starts[group]! };
  }

  /** The document at a place of the order that the keys seed. */
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
      // This epoch's and the one before: a step at the border needs both.
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

/** Number of the last group that begins at or before `i`; of several that begin there all but the last are empty. */
function placeIn(starts: readonly number[], i: number): number {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle]! <= i) low = middle;
    else high = middle - 1;
  }
  return low;
}
