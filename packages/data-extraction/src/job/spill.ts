import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NumberSet } from '../filters/fingerprints';
import { readLines } from './json-lines';

/** Data about all pages is spread over this many files, so that each fits in memory. */
const PARTS = 256;
/** Characters buffered in memory before they are appended to their files. */
const MAX_WAITING = 8 * 2 ** 20;

/**
 * Values in numbered parts on disk, each part in insertion order. Writes are synchronous: there is no other work to do
 * meanwhile, and thousands of short asynchronous waits would take longer than the writes.
 */
export class Spill<T> {
  private readonly waiting = new Map<number, string>();
  private characters = 0;

  /** @param folder created on the first write; no other spill may use it */
  constructor(private readonly folder: string) {}

  add(part: number, value: T): void {
    const line = `${JSON.stringify(value)}\n`;
    this.waiting.set(part, (this.waiting.get(part) ?? '') + line);
    this.characters += line.length;
    if (this.characters > MAX_WAITING) this.flush();
  }

  /** @param key 0 to 2^53 - 1; equal keys go to the same part */
  addByKey(key: number, value: T): void {
    this.add(key % PARTS, value);
  }

  /** Numbers of the parts that are not empty, in ascending order. */
  parts(): number[] {
    this.flush();
    const names = existsSync(this.folder) ? readdirSync(this.folder) : [];
    return names.map((name) => Number.parseInt(name)).sort((a, b) => a - b);
  }

  /** Yields nothing for a part that was never written. */
  async *read(part: number): AsyncGenerator<T> {
    this.flush();
    if (existsSync(this.fileOf(part))) yield* readLines<T>(this.fileOf(part));
  }

  private flush(): void {
    if (this.characters === 0) return;
    mkdirSync(this.folder, { recursive: true });
    for (const [part, lines] of this.waiting) appendFileSync(this.fileOf(part), lines);
    this.waiting.clear();
    this.characters = 0;
  }

  private fileOf(part: number): string {
    return path.join(this.folder, `${part}.jsonl`);
  }
}

/** A growing set of item numbers, one byte per item. */
export class ItemSet {
  private bytes = new Uint8Array(1024);

  has(item: number): boolean {
    return this.bytes[item] === 1;
  }

  add(item: number): void {
    if (item >= this.bytes.length) {
      const longer = new Uint8Array(Math.max(item + 1, 2 * this.bytes.length));
      longer.set(this.bytes);
      this.bytes = longer;
    }
    this.bytes[item] = 1;
  }
}

const RECORDS_WAITING = 512;

/** Keys of items, on disk. Finds items that share a key with an earlier item. */
export class KeyTable {
  /** Pairs of key and item, by part. */
  private readonly waiting = new Map<number, { readonly records: Float64Array; length: number }>();

  /** @param folder created on the first write; no other table may use it */
  constructor(private readonly folder: string) {}

  /**
   * @param key  0 to 2^53 - 1; the keys of one item differ from each other
   * @param item not smaller than in earlier calls
   */
  add(key: number, item: number): void {
    const part = key % PARTS;
    let waiting = this.waiting.get(part);
    if (!waiting) {
      waiting = { records: new Float64Array(2 * RECORDS_WAITING), length: 0 };
      this.waiting.set(part, waiting);
    }
    waiting.records[waiting.length++] = key;
    waiting.records[waiting.length++] = item;
    if (waiting.length === waiting.records.length) this.flush(part);
  }

  /** Adds every item that shares a key with an earlier one to `repeated`. Items in `ignored` are skipped. */
  findRepeated(repeated: ItemSet, ignored?: ItemSet): void {
    for (const part of this.waiting.keys()) {
      const seen = new NumberSet();
      const records = this.read(part);
      for (let i = 0; i < records.length; i += 2) {
        const item = records[i + 1]!;
        if (!ignored?.has(item) && !seen.add(records[i]!)) repeated.add(item);
      }
    }
  }

  /** Returns the keys that more than `limit` items share. */
  keysAbove(limit: number): NumberSet {
    const frequent = new NumberSet();
    for (const part of this.waiting.keys()) {
      const counts = new Map<number, number>();
      const records = this.read(part);
      for (let i = 0; i < records.length; i += 2) {
        const key = records[i]!;
        const count = (counts.get(key) ?? 0) + 1;
        counts.set(key, count);
        if (count > limit) frequent.add(key);
      }
    }
    return frequent;
  }

  private read(part: number): Float64Array {
    this.flush(part);
    const bytes = readFileSync(this.fileOf(part));
    const records = new Float64Array(bytes.length / 8);
    new Uint8Array(records.buffer).set(bytes);
    return records;
  }

  private flush(part: number): void {
    const waiting = this.waiting.get(part)!;
    mkdirSync(this.folder, { recursive: true });
    appendFileSync(this.fileOf(part), new Uint8Array(waiting.records.buffer, 0, waiting.length * 8));
    waiting.length = 0;
  }

  private fileOf(part: number): string {
    return path.join(this.folder, String(part));
  }
}
