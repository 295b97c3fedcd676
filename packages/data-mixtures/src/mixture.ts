import { makeBatch, type Batch, type LoadedSample } from './batch';
import { closeGaps, mediaName, type Document, type DocumentSource, type MediaRef } from './document';
import type { MediaLoader } from './media';
import { seededStream, shuffledIndex } from './random';
import { PendingReads } from './pending-reads';
import { buildSample, checkSampleOptions, type SampleOptions } from './sample';
import type { TextTokenizer } from './tokenizer';

export interface DatasetConfig extends SampleOptions {
  /** Unique in the mixture; part of the seed of its order. */
  readonly name: string;
  /** The paper's lambda: what this set's loss is multiplied by. M3W 1.0, ALIGN 0.2, LTIP 0.2, VTP 0.03. */
  readonly weight: number;
  /** Samples per step, over all ranks. */
  readonly batchSize: number;
  readonly source: DocumentSource;
  readonly media: MediaLoader;
}

/**
 * How the sets make up an update (section 2.4, table 11 of the appendix):
 *
 * - `accumulate`: a batch of every set; their weighted gradients are added up. The paper's choice, and the best it tried.
 * - `round-robin`: one set's batch an update, each in its turn.
 * - `merged`: one batch with the samples of all. Batch sizes weigh the sets, so their weights must be equal, and all must
 *   have media of one shape.
 */
export type MixingStrategy = 'accumulate' | 'round-robin' | 'merged';

export interface MixtureConfig {
  readonly seed: number;
  readonly tokenizer: TextTokenizer;
  readonly datasets: readonly DatasetConfig[];
  /** Default `accumulate`. */
  readonly strategy?: MixingStrategy;
  /**
   * Which share of every batch this process makes. The shares of all ranks together are the batch of a single one, so a
   * run can go on with another number of ranks. Default: the whole batch.
   */
  readonly rank?: { readonly index: number; readonly count: number };
}

/** Where a mixture stands: plain JSON for a checkpoint. */
export interface MixtureCursor {
  readonly seed: number;
  /** Steps given. */
  readonly step: number;
  readonly datasets: Readonly<
    Record<
      string,
      {
        /** Documents taken, over all epochs. */
        readonly position: number;
        /** Length of the source, null for an endless one: another length is another order. */
        readonly length: number | null;
      }
    >
  >;
}

/** One update's worth of data: batches whose gradients are weighted and summed. */
export interface MixtureStep {
  readonly batches: readonly { readonly name: string; readonly weight: number; readonly batch: Batch }[];
  /** Save this with the parameters that the step led to: a mixture made with it goes on with the step after. */
  readonly cursor: MixtureCursor;
}

/** What became of a set's documents since the mixture was made. */
export interface DatasetReport {
  /** Documents whose turn has come, on all ranks, counted from the start of training. */
  readonly documents: number;
  /** How often the source was gone through: documents by its length. */
  readonly epochs: number;
  /** Documents whose turn came again. */
  readonly repeats: number;
  /** Samples made by this rank. */
  readonly samples: number;
  /** Those of them that stand in for a document that gave none. */
  readonly substitutes: number;
  /** Documents left out, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly unreadableMedia: number;
  /** The first hundred names of them. */
  readonly unreadableNames: readonly string[];
}

/** Documents tried for one place of a batch before a set is given up. */
const PATIENCE = 10_000;
/** Stand-ins of an endless source come from so far ahead that no training gets there. */
const FAR_AHEAD = 2 ** 32;
const MAX_NAMES_KEPT = 100;

interface DatasetState {
  readonly config: DatasetConfig;
  position: number;
  samples: number;
  substitutes: number;
  readonly skipped: Record<string, number>;
  unreadableMedia: number;
  readonly unreadableNames: string[];
}

/**
 * Named data sets, each in its own shuffled order, mixed into the batches of one update after the other.
 *
 * What comes is a function of the seed and the cursor alone. Orders and samples are computed from positions, never
 * remembered, so it is the same however many workers decode or ranks share the batches, and a resumed mixture needs no
 * replay. Every place of a batch has its document; where that gives no sample, another drawn for this place stands in.
 * So no place depends on what became of the others, and a rank reads nothing but its share.
 */
export class Mixture implements AsyncIterable<MixtureStep> {
  private readonly datasets: readonly DatasetState[];
  private readonly reading = new PendingReads();
  private step = 0;

  constructor(
    readonly config: MixtureConfig,
    cursor?: MixtureCursor,
  ) {
    this.datasets = config.datasets.map((dataset) => ({
      config: dataset,
      position: 0,
      samples: 0,
      substitutes: 0,
      skipped: {},
      unreadableMedia: 0,
      unreadableNames: [],
    }));
    checkConfig(config);
    if (cursor) this.resume(cursor);
  }

  /**
   * The next step. Which documents it takes is settled when it is asked for, so several may be in the making at once:
   * images of the one after are decoded while those of the first are still awaited.
   */
  async next(): Promise<MixtureStep> {
    const { strategy = 'accumulate', tokenizer } = this.config;
    const { datasets } = this;
    const turn = strategy === 'round-robin' ? [datasets[this.step % datasets.length]!] : datasets;
    const taking = turn.map((state) => this.takeSamples(state));
    this.step++;
    const cursor = this.cursor();
    const taken = await Promise.all(taking);
    const batchOf = (samples: LoadedSample[], sets: readonly DatasetState[]) => {
      const maxTokens = Math.max(...sets.map((state) => state.config.maxTokens));
      return makeBatch(samples, sets[0]!.config.media, tokenizer.special.pad, maxTokens);
    };
    const batches =
      strategy === 'merged'
        ? [{ name: 'merged', weight: turn[0]!.config.weight, batch: batchOf(taken.flat(), turn) }]
        : turn.map((state, i) => {
            const { name, weight } = state.config;
            return { name, weight, batch: batchOf(taken[i]!, [state]) };
          });
    return { batches, cursor };
  }

  /** Steps without end. */
  [Symbol.asyncIterator](): AsyncIterator<MixtureStep, never> {
    return { next: async () => ({ done: false, value: await this.next() }) };
  }

  /** Resolves once the documents of all steps asked for are read, and their images asked for: loaders have the rest. */
  settled(): Promise<void> {
    return this.reading.settled();
  }

  /** State after the steps asked for so far. With prefetching take the cursor of the step that was used instead. */
  cursor(): MixtureCursor {
    const entries = this.datasets.map(({ config, position }) => [
      config.name,
      { position, length: Number.isFinite(config.source.length) ? config.source.length : null },
    ]);
    return { seed: this.config.seed, step: this.step, datasets: Object.fromEntries(entries) };
  }

  report(): Record<string, DatasetReport> {
    return Object.fromEntries(
      this.datasets.map(({ config, position, samples, substitutes, skipped, unreadableMedia, unreadableNames }) => [
        config.name,
        {
          documents: position,
          epochs: position / config.source.length,
          repeats: Math.max(0, position - config.source.length),
          samples,
          substitutes,
          skipped: { ...skipped },
          unreadableMedia,
          unreadableNames: [...unreadableNames],
        },
      ]),
    );
  }

  /** This rank's samples of a set's next batch, all made at once; their positions are taken before anything is awaited. */
  private async takeSamples(state: DatasetState): Promise<LoadedSample[]> {
    const { batchSize } = state.config;
    const { index, count } = this.config.rank ?? { index: 0, count: 1 };
    const first = state.position + Math.floor((index * batchSize) / count);
    const end = state.position + Math.floor(((index + 1) * batchSize) / count);
    state.position += batchSize;
    const samples = await Promise.all(Array.from({ length: end - first }, (_, i) => this.fill(state, first + i)));
    state.samples += samples.length;
    return samples;
  }

  /** The sample at a position of the order over all epochs, or of the first document drawn in its place that gives one. */
  private async fill(state: DatasetState, position: number): Promise<LoadedSample> {
    const { source, name } = state.config;
    const most = Math.min(source.length + 1, PATIENCE);
    for (let attempt = 0; attempt < most; attempt++) {
      const made = await this.makeSample(state, position, attempt);
      if (typeof made !== 'string') {
        if (attempt > 0) state.substitutes++;
        return made;
      }
      state.skipped[made] = (state.skipped[made] ?? 0) + 1;
    }
    throw new Error(
      `Mixture: ${most} documents of data set "${name}" in a row gave no sample ` +
        `(skipped so far: ${JSON.stringify(state.skipped)}). Check its documents and its media loader.`,
    );
  }

  /** A sample, or why there is none. */
  private async makeSample(state: DatasetState, position: number, attempt: number): Promise<LoadedSample | string> {
    const index = this.indexOf(state, position, attempt);
    try {
      const given = state.config.source.get(index);
      const document = await (given instanceof Promise ? this.reading.add(given) : given);
      if (!document) return 'broken document';
      if ('rejected' in document) return document.rejected;
      const substitute = attempt > 0 ? ['instead', attempt] : [];
      return await this.loadSample(state, document, [position, ...substitute]);
    } catch (error) {
      const { name } = state.config;
      throw new Error(`Mixture: data set "${name}", document ${index}: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Which document is tried for a position; those after the first in an order of the position's own. */
  private indexOf({ config: { source, name } }: DatasetState, position: number, attempt: number): number {
    const { length } = source;
    const { seed } = this.config;
    if (!Number.isFinite(length)) return position + attempt * FAR_AHEAD;
    if (attempt > 0) return shuffledIndex(attempt - 1, length, seed, name, 'instead', position);
    const keys = [seed, name, Math.floor(position / length)];
    const place = position % length;
    return source.shuffled ? source.shuffled(place, ...keys) : shuffledIndex(place, length, ...keys);
  }

  /** Builds the sample and loads its media; made anew without those that turn out to be unreadable. */
  private async loadSample(
    state: DatasetState,
    document: Document,
    place: readonly (number | string)[],
  ): Promise<LoadedSample | string> {
    const { config } = state;
    const loaded = new Map<MediaRef, Float32Array | undefined>();
    for (let readable = document; ;) {
      const stream = seededStream(this.config.seed, config.name, 'sample', ...place);
      const sample = buildSample(readable, this.config.tokenizer, config, stream);
      if ('rejected' in sample) return loaded.size > 0 ? 'unreadable media' : sample.rejected;
      const fresh = [...new Set(sample.media)].filter((media) => !loaded.has(media));
      const values = await Promise.all(fresh.map((media) => config.media.load(media)));
      fresh.forEach((media, i) => {
        loaded.set(media, values[i]);
        if (!values[i]) noteUnreadable(state, mediaName(media));
      });
      const media = sample.media.map((ref) => loaded.get(ref));
      if (media.every((m) => m !== undefined)) return { sample, media };
      const parts = readable.parts.map((part) =>
        'media' in part && loaded.has(part.media) && !loaded.get(part.media) ? undefined : part,
      );
      readable = { ...readable, parts: closeGaps(parts) };
    }
  }

  private resume(cursor: MixtureCursor): void {
    if (cursor.seed !== this.config.seed) {
      throw new Error(`Mixture: the cursor was made with seed ${cursor.seed}, the config has ${this.config.seed}.`);
    }
    const names = this.datasets.map((state) => state.config.name).sort();
    const saved = Object.keys(cursor.datasets).sort();
    if (names.join('\n') !== saved.join('\n')) {
      throw new Error(
        `Mixture: the cursor is of the data sets ${saved.join(', ')}, the config has ${names.join(', ')}. ` +
          'Start without the cursor to train on another mixture.',
      );
    }
    const now = this.cursor();
    for (const state of this.datasets) {
      const { name } = state.config;
      const { position, length } = cursor.datasets[name]!;
      if (length !== now.datasets[name]!.length) {
        throw new Error(
          `Mixture: data set "${name}" had ${length ?? 'endless'} documents when the cursor was made and has ` +
            `${now.datasets[name]!.length ?? 'endless'} now, so its order cannot be continued.`,
        );
      }
      state.position = position;
    }
    this.step = cursor.step;
  }
}

function noteUnreadable(state: DatasetState, name: string): void {
  state.unreadableMedia++;
  if (state.unreadableNames.length < MAX_NAMES_KEPT) state.unreadableNames.push(name);
}

function checkConfig({ datasets, strategy, rank = { index: 0, count: 1 } }: MixtureConfig): void {
  if (datasets.length === 0) throw new Error('Mixture: datasets is empty; give at least one.');
  const { index, count } = rank;
  if (!(Number.isInteger(count) && Number.isInteger(index) && 0 <= index && index < count)) {
    throw new Error(`Mixture: rank must be an index from 0 below its count, got ${index} of ${count}.`);
  }
  if (strategy === 'merged') checkMergeable(datasets);
  const names = new Set<string>();
  for (const { name, weight, batchSize, source, ...options } of datasets) {
    const where = `Mixture: data set "${name}"`;
    if (names.has(name)) throw new Error(`${where} occurs twice. Names must differ: they seed the order.`);
    names.add(name);
    if (!(weight >= 0)) throw new Error(`${where}: weight must be 0 or more, got ${weight}.`);
    if (!Number.isInteger(batchSize) || batchSize < 1) {
      throw new Error(`${where}: batchSize must be a whole number from 1, got ${batchSize}.`);
    }
    if (batchSize < count) {
      throw new Error(`${where}: batchSize must be at least one for each of ${count} ranks, got ${batchSize}.`);
    }
    if (!(source.length > 0)) throw new Error(`${where}: its source is empty.`);
    checkSampleOptions(where, options);
  }
}

/** One batch has one weight, and media of one shape. */
function checkMergeable(datasets: readonly DatasetConfig[]): void {
  const [first] = datasets;
  for (const { name, weight, media } of datasets) {
    if (weight !== first!.weight) {
      throw new Error(
        `Mixture: data set "${name}" must have the weight of the others, ${first!.weight}, to be merged with them, got ` +
          `${weight}. Weigh merged sets by their batchSize.`,
      );
    }
    const [want, got] = [first!.media, media].map(({ kind, shape }) => `${kind} [${shape.join(', ')}]`);
    if (got !== want) {
      throw new Error(`Mixture: data set "${name}" must have ${want} to be merged with the others, got ${got}.`);
    }
  }
}
