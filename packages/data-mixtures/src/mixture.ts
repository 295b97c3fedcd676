import { makeBatch, type Batch, type LoadedSample } from './batch';
import { expectOneOf, expectWhole, fail } from './checks';
import { closeGaps, mediaName, type Document, type DocumentSource, type MediaRef } from './document';
import type { MediaLoader } from './media';
import { seededStream, shuffledIndex } from '@flamingo-ts/random';
import { PendingReads } from './pending-reads';
import { buildSample, checkSampleOptions, type SampleOptions } from './sample';
import { checkTokenizer, type TextTokenizer } from './tokenizer';

export interface DatasetConfig extends SampleOptions {
  /** Unique in the mixture. Part of the seed of the dataset's order. */
  readonly name: string;
  /** Factor of this dataset's loss, lambda in the paper. M3W 1.0, ALIGN 0.2, LTIP 0.2, VTP 0.03. */
  readonly weight: number;
  /** Samples per step. */
  readonly batchSize: number;
  readonly source: DocumentSource;
  readonly media: MediaLoader;
}

const STRATEGIES = ['accumulate', 'round-robin', 'merged'] as const;

/**
 * How datasets are combined (section 2.4, appendix table 11):
 *
 * - `accumulate`: every step has a batch of every dataset, whose weighted gradients are summed. Best in the paper.
 * - `round-robin`: the datasets take turns, one batch per step.
 * - `merged`: every step has one batch with the samples of all datasets. Requires equal weights (the batch sizes weight
 *   the datasets) and media of equal shape.
 */
export type MixingStrategy = (typeof STRATEGIES)[number];

export interface MixtureConfig {
  readonly seed: number;
  readonly tokenizer: TextTokenizer;
  readonly datasets: readonly DatasetConfig[];
  /** Defaults to `accumulate`. */
  readonly strategy?: MixingStrategy;
}

/** Position of a mixture, as JSON for a checkpoint. */
export interface MixtureCursor {
  readonly seed: number;
  /** Steps returned. */
  readonly step: number;
  readonly datasets: Readonly<
    Record<
      string,
      {
        /** Documents taken, over all epochs. */
        readonly position: number;
        /** Length of the source, null if it is infinite. Another length would change the order. */
        readonly length: number | null;
      }
    >
  >;
}

/** The data of one training step: batches whose weighted gradients are summed. */
export interface MixtureStep {
  readonly batches: readonly { readonly name: string; readonly weight: number; readonly batch: Batch }[];
  /** Save this with the parameters after the step. A mixture created with it resumes at the next step. */
  readonly cursor: MixtureCursor;
}

/** Statistics of a dataset. */
export interface DatasetReport {
  /** Documents taken since the start of training. */
  readonly documents: number;
  /** Documents divided by the length of the source. */
  readonly epochs: number;
  /** Documents taken after the first epoch. */
  readonly repeats: number;
  /** Samples since the mixture was created, as are the counts below. */
  readonly samples: number;
  /** Samples of substitute documents, used because the document at a position yielded no sample. */
  readonly substitutes: number;
  /** Skipped documents by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly unreadableMedia: number;
  /** Names of the first hundred unreadable media. */
  readonly unreadableNames: readonly string[];
}

/** Documents tried for one sample before the mixture gives up. */
const MAX_ATTEMPTS = 10_000;
/** Offset of substitutes in an infinite source, beyond what training reaches. */
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
 * Mixes named datasets, each in its own shuffled order, into the batches of training steps.
 *
 * The output is a pure function of the seed and the cursor, whatever the number of decoding workers. Orders and samples
 * are computed from positions, so resuming needs no replay. If the document of a position yields no sample, another one
 * drawn for the same position replaces it, so no position depends on the outcome of others.
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
   * Returns the next step. A call fixes the documents of its step at once, so several calls may be pending: the images of
   * later steps are decoded while earlier ones are awaited.
   */
  async next(): Promise<MixtureStep> {
    const { strategy = 'accumulate', tokenizer } = this.config;
    const { datasets } = this;
    const active = strategy === 'round-robin' ? [datasets[this.step % datasets.length]!] : datasets;
    const taking = active.map((state) => this.takeSamples(state));
    this.step++;
    const cursor = this.cursor();
    const taken = await Promise.all(taking);
    const batchOf = (samples: LoadedSample[], states: readonly DatasetState[]) => {
      const maxTokens = Math.max(...states.map((state) => state.config.maxTokens));
      return makeBatch(samples, states[0]!.config.media, tokenizer.special.pad, maxTokens);
    };
    const batches =
      strategy === 'merged'
        ? [{ name: 'merged', weight: active[0]!.config.weight, batch: batchOf(taken.flat(), active) }]
        : active.map((state, i) => {
            const { name, weight } = state.config;
            return { name, weight, batch: batchOf(taken[i]!, [state]) };
          });
    return { batches, cursor };
  }

  /** Iterates over steps. Never ends. */
  [Symbol.asyncIterator](): AsyncIterator<MixtureStep, never> {
    return { next: async () => ({ done: false, value: await this.next() }) };
  }

  /** Resolves when the documents of all pending steps are read and their media requested from the loaders. */
  whenDispatched(): Promise<void> {
    return this.reading.whenDone();
  }

  /** Position after all requested steps. When prefetching, use the cursor of the last consumed step instead. */
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

  /** The samples of a dataset's next batch. Advances the position before it awaits anything. */
  private async takeSamples(state: DatasetState): Promise<LoadedSample[]> {
    const { batchSize } = state.config;
    const first = state.position;
    state.position += batchSize;
    const samples = await Promise.all(Array.from({ length: batchSize }, (_, i) => this.sampleAt(state, first + i)));
    state.samples += samples.length;
    return samples;
  }

  /** The sample of the document at a position (counted over all epochs), or of its first substitute that yields one. */
  private async sampleAt(state: DatasetState, position: number): Promise<LoadedSample> {
    const { source, name } = state.config;
    const most = Math.min(source.length + 1, MAX_ATTEMPTS);
    for (let attempt = 0; attempt < most; attempt++) {
      const made = await this.makeSample(state, position, attempt);
      if (typeof made !== 'string') {
        if (attempt > 0) state.substitutes++;
        return made;
      }
      state.skipped[made] = (state.skipped[made] ?? 0) + 1;
    }
    throw new Error(
      `Mixture: ${most} documents of dataset "${name}" in a row yielded no sample ` +
        `(skipped so far: ${JSON.stringify(state.skipped)}). Check its documents and its media loader.`,
    );
  }

  /** Returns a sample, or the reason why there is none. */
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
      throw new Error(`Mixture: dataset "${name}", document ${index}: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Index of the document for an attempt at a position. Every position has its own order of substitutes. */
  private indexOf({ config: { source, name } }: DatasetState, position: number, attempt: number): number {
    const { length } = source;
    const { seed } = this.config;
    if (!Number.isFinite(length)) return position + attempt * FAR_AHEAD;
    if (attempt > 0) return shuffledIndex(attempt - 1, length, seed, name, 'instead', position);
    const keys = [seed, name, Math.floor(position / length)];
    const place = position % length;
    return source.shuffled ? source.shuffled(place, ...keys) : shuffledIndex(place, length, ...keys);
  }

  /** Builds the sample and loads its media. Rebuilds it without media that turn out to be unreadable. */
  private async loadSample(
    state: DatasetState,
    document: Document,
    place: readonly (number | string)[],
  ): Promise<LoadedSample | string> {
    const { config } = state;
    const loaded = new Map<MediaRef, Float32Array | undefined>();
    const keys = [this.config.seed, config.name, 'sample', ...place];
    for (let readable = document; ;) {
      const sample = buildSample(readable, this.config.tokenizer, config, seededStream(...keys));
      if ('rejected' in sample) return loaded.size > 0 ? 'unreadable media' : sample.rejected;
      const fresh = [...new Set(sample.media)].filter((media) => !loaded.has(media));
      const values = await Promise.all(fresh.map((media) => config.media.load(media, keys)));
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
      throw new Error(
        `Mixture: the cursor was made with seed ${cursor.seed}, but the config has ${this.config.seed}. Use the same seed.`,
      );
    }
    const names = this.datasets.map((state) => state.config.name).sort();
    const saved = Object.keys(cursor.datasets).sort();
    if (names.join('\n') !== saved.join('\n')) {
      throw new Error(
        `Mixture: the cursor is for the datasets ${saved.join(', ')}, but the config has ${names.join(', ')}. ` +
          'Start without the cursor to train on another mixture.',
      );
    }
    const now = this.cursor();
    for (const state of this.datasets) {
      const { name } = state.config;
      const { position, length } = cursor.datasets[name]!;
      if (length !== now.datasets[name]!.length) {
        throw new Error(
          `Mixture: dataset "${name}" had ${length ?? 'infinite'} documents when the cursor was made, but has ` +
            `${now.datasets[name]!.length ?? 'infinite'} now, so its order cannot be resumed.`,
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

function checkConfig({ datasets, strategy = 'accumulate', seed, tokenizer }: MixtureConfig): void {
  if (datasets.length === 0) throw new Error('Mixture: datasets is empty. Pass at least one.');
  if (!Number.isSafeInteger(seed)) fail('Mixture: seed', 'a whole number', seed);
  expectOneOf('Mixture: strategy', strategy, STRATEGIES);
  checkTokenizer('Mixture', tokenizer);
  const names = new Set<string>();
  for (const { name, weight, batchSize, source, media, ...options } of datasets) {
    const where = `Mixture: dataset "${name}"`;
    if (names.has(name)) throw new Error(`${where} occurs twice. Names must differ: they seed the order.`);
    names.add(name);
    if (!(weight >= 0 && weight < Infinity)) fail(`${where}: weight`, '0 or more', weight);
    expectWhole(`${where}: batchSize`, batchSize, 1);
    const { length } = source;
    if (length === 0) throw new Error(`${where}: its source is empty.`);
    if (length !== Infinity) expectWhole(`${where}: source.length`, length, 1);
    expectOneOf(`${where}: media.kind`, media.kind, ['frames', 'features']);
    checkSampleOptions(where, options);
  }
  if (strategy === 'merged') checkMergeable(datasets);
}

/** One batch has one weight, and media of one shape. */
function checkMergeable(datasets: readonly DatasetConfig[]): void {
  const [first] = datasets;
  for (const { name, weight, media } of datasets) {
    if (weight !== first!.weight) {
      throw new Error(
        `Mixture: dataset "${name}" must have the weight of the others, ${first!.weight}, to be merged with them, got ` +
          `${weight}. Weight merged datasets by their batchSize.`,
      );
    }
    const [expected, got] = [first!.media, media].map(({ kind, shape }) => `${kind} [${shape.join(', ')}]`);
    if (got !== expected) {
      throw new Error(`Mixture: dataset "${name}" must have ${expected} to be merged with the others, got ${got}.`);
    }
  }
}
