import { createHash } from 'node:crypto';
import { comparable } from '../pages/text';

/** Fingerprint of a text, 52 bits. Ignores case, punctuation and spacing. */
export function textKey(text: string): number {
  return plainKey(comparable(text));
}

/** Fingerprint of a URL. Ignores the scheme, `www.`, the fragment, a trailing slash and campaign parameters. */
export function urlKey(url: string): number {
  let plain = url;
  try {
    const parsed = new URL(url);
    const kept = [...parsed.searchParams].filter(([name]) => !/^(?:utm_\w+|fbclid|gclid|msclkid)$/.test(name));
    const query = new URLSearchParams(kept);
    query.sort();
    plain = `${parsed.host.replace(/^www\./, '')}${parsed.pathname.replace(/\/$/, '')}${kept.length > 0 ? '?' : ''}${query.toString()}`;
  } catch {
    // `url` is the path of a file.
  }
  return plainKey(plain);
}

/** Fingerprint of a string, 52 bits. Every character counts. */
export function plainKey(text: string): number {
  return Number.parseInt(createHash('sha1').update(text).digest('hex').slice(0, 13), 16);
}

/**
 * MinHash bands of a text (Broder, 1997): two texts with a band in common are near duplicates. 14 bands of 8 hashes
 * over runs of five words, as in FineWeb (Penedo et al., 2024, section 3.4): texts that share 3 of 4 runs match with
 * probability 0.77, those that share 9 of 10 with more than 0.99, those that share 1 of 2 with 0.05.
 *
 * @returns 14 numbers of 52 bits; an empty array for fewer than five words
 */
export function minHashBands(text: string): number[] {
  const words = comparable(text).split(' ');
  if (words.length < RUN) return [];
  const hashes = words.map(hashWord);
  const runs = Int32Array.from({ length: words.length - RUN + 1 }, (_, i) => {
    let run = 0x811c9dc5;
    for (let k = 0; k < RUN; k++) run = mix(Math.imul(run, 0x01000193) ^ hashes[i + k]!);
    return run;
  });
  // Signed integers compare fastest. Flipping the top bit gives them the order of unsigned ones.
  const least = SEEDS.map((seed) => {
    let least = 0x7fffffff;
    for (let i = 0; i < runs.length; i++) {
      const hash = mix(runs[i]! ^ seed) ^ TOP_BIT;
      if (hash < least) least = hash;
    }
    return least ^ TOP_BIT;
  });
  return Array.from({ length: BANDS }, (_, band) => {
    let [high, low] = [band + 1, 0x9e3779b9];
    for (const hash of least.subarray(band * ROWS, (band + 1) * ROWS)) {
      high = mix(high ^ hash);
      low = mix(Math.imul(low, 31) ^ hash);
    }
    return (high & 0xfffff) * 2 ** 32 + (low >>> 0);
  });
}

const RUN = 5;
const BANDS = 14;
const ROWS = 8;
const TOP_BIT = 1 << 31;
const SEEDS = Int32Array.from({ length: BANDS * ROWS }, (_, i) => mix(Math.imul(i + 1, 0x9e3779b1)));

function hashWord(word: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 0x01000193);
  return mix(hash);
}

/** The finalizer of MurmurHash3: each bit of the input affects each bit of the result. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** A set of numbers from 0 to 2^53 - 1: 12 to 24 bytes per number. */
export class NumberSet {
  private table = new Float64Array(1024).fill(-1);
  size = 0;

  /** @returns whether the key is new */
  add(key: number): boolean {
    if (this.size * 3 > this.table.length * 2) this.grow();
    const slot = this.slotOf(key);
    if (this.table[slot] === key) return false;
    this.table[slot] = key;
    this.size++;
    return true;
  }

  has(key: number): boolean {
    return this.table[this.slotOf(key)] === key;
  }

  private slotOf(key: number): number {
    const last = this.table.length - 1;
    let slot = mix((key | 0) ^ Math.floor(key / 2 ** 32)) & last;
    while (this.table[slot] !== -1 && this.table[slot] !== key) slot = (slot + 1) & last;
    return slot;
  }

  private grow(): void {
    const old = this.table;
    this.table = new Float64Array(old.length * 2).fill(-1);
    for (const key of old) if (key !== -1) this.table[this.slotOf(key)] = key;
  }
}
