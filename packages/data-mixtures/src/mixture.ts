import { makeBatch, type Batch, type LoadedSample } from './batch';
import { mediaName, type Document, type DocumentSource, type MediaRef } from './document';
import type { MediaLoader } from './media';
import { seededStream, shuffledIndex } from './random';
import { buildSample, checkSampleOptions, type SampleOptions } from './sample';
import type { TextTokenizer } from './tokenizer';

export interface DatasetConfig extends SampleOptions {
  /** Unique in the mixture; part of the seed of its order. */
  readonly name: string;
  /** The paper's lambda: what this set's loss is multiplied by. M3W 1.0, ALIGN 0.2, LTIP 0.2, VTP 0.03. */
  readonly weight: number;
  readonly batchSize: number;
  readonly source: DocumentSource;
  readonly media: MediaLoader;
}

export interface MixtureConfig {
  readonly seed: number;
  readonly tokenizer: TextTokenizer;
  readonly datasets: readonly DatasetConfig[];
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

/** One update's worth of data: a batch of every set, whose gradients are weighted and summed (section 2.4). */
export interface MixtureStep {
  readonly batches: readonly { readonly name: string; readonly weight: number; readonly batch: Batch }[];
  /** Save this with the parameters that the step led to: a mixture made with it goes on with the step after. */
  readonly cursor: MixtureCursor;
}

/** What became of a set's documents since the mixture was made. */
export interface DatasetReport {
  /** How often the source was gone through, counted from the start of training. */
  readonly epochs: number;
  readonly samples: number;
  /** Documents left out, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly unreadableMedia: number;
  /** The first hundred names of them. */
  readonly unreadableNames: readonly string[];
}

/** Documents in a row without one sample after which an endless source is given up. */
const PATIENCE = 10_000;
const MAX_NAMES_KEPT = 100;

interface DatasetState {
  readonly config: DatasetConfig;
  position: number;
  samples: number;
  readonly skipped: Record<string, number>;
  unreadableMedia: number;
  readonly unreadableNames: string[];
}

/**
 * Named data sets, each in its own shuffled order, and one batch of each per step (the paper's accumulation).
 *
 * What comes is a function of the seed and the cursor alone. Orders and samples are computed from positions, never
 * remembered, so it is the same however many workers decode, and a resumed mixture needs no replay.
 */
export class Mixture implements AsyncIterable<MixtureStep> {
  private readonly datasets: readonly DatasetState[];
  private step = 0;
  private latest: Promise<unknown> = Promise.resolve();

  constructor(
    readonly config: MixtureConfig,
    cursor?: MixtureCursor,
  ) {
    this.datasets = config.datasets.map((dataset) => ({
      config: dataset,
      position: 0,
      samples: 0,
      skipped: {},
      unreadableMedia: 0,
      unreadableNames: [],
    }));
    checkConfig(config);
    if (cursor) this.resume(cursor);
  }

  /** Steps are made one after the other even when asked for at once: which documents a step takes hangs on the one before. */
  next(): Promise<MixtureStep> {
    const step = this.latest.then(() => this.makeStep());
    this.latest = step.catch(() => undefined);
    return step;
  }

  private async makeStep(): Promise<MixtureStep> {
    const batches = await Promise.all(
      this.datasets.map(async (state) => {
        const { name, weight } = state.config;
        return { name, weight, batch: await this.nextBatch(state) };
      }),
    );
    this.step++;
    return { batches, cursor: this.cursor() };
  }

  /** Steps without end. */
  async *[Symbol.asyncIterator](): AsyncGenerator<MixtureStep, never> {
    for (;;) yield await this.next();
  }

  /** State after the steps given so far. With prefetching take the cursor of the step that was used instead. */
  cursor(): MixtureCursor {
    const entries = this.datasets.map(({ config, position }) => [
      config.name,
      { position, length: Number.isFinite(config.source.length) ? config.source.length : null },
    ]);
    return { seed: this.config.seed, step: this.step, datasets: Object.fromEntries(entries) };
  }

  report(): Record<string, DatasetReport> {
    return Object.fromEntries(
      this.datasets.map(({ config, position, samples, skipped, unreadableMedia, unreadableNames }) => [
        config.name,
        {
          epochs: position / config.source.length,
          samples,
          skipped: { ...skipped },
          unreadableMedia,
          unreadableNames: [...unreadableNames],
        },
      ]),
    );
  }

  /** Takes documents until the batch is full. All that are missing are made at once; order is that of the positions. */
  private async nextBatch(state: DatasetState): Promise<Batch> {
    const { batchSize, media, maxTokens, source, name } = state.config;
    const samples: LoadedSample[] = [];
    let barren = 0;
    while (samples.length < batchSize) {
      const positions = Array.from({ length: batchSize - samples.length }, () => state.position++);
      const made = await Promise.all(positions.map((position) => this.makeSample(state, position)));
      const good = made.filter((sample) => typeof sample !== 'string');
      const reasons = made.filter((sample) => typeof sample === 'string');
      for (const reason of reasons) state.skipped[reason] = (state.skipped[reason] ?? 0) + 1;
      samples.push(...good);
      barren = good.length > 0 ? 0 : barren + made.length;
      if (barren >= Math.min(source.length, PATIENCE)) {
        throw new Error(
          `Mixture: the last ${barren} documents of data set "${name}" gave no sample ` +
            `(skipped so far: ${JSON.stringify(state.skipped)}). Check its documents and its media loader.`,
        );
      }
    }
    state.samples += samples.length;
    return makeBatch(samples, media, this.config.tokenizer.special.pad, maxTokens);
  }

  /** The sample at a position of the order over all epochs, or why there is none. */
  private async makeSample(state: DatasetState, position: number): Promise<LoadedSample | string> {
    const { source, name } = state.config;
    const epoch = Math.floor(position / source.length);
    const index = Number.isFinite(source.length)
      ? shuffledIndex(position % source.length, source.length, this.config.seed, name, epoch)
      : position;
    try {
      const document = await source.get(index);
      return document ? await this.loadSample(state, document, position) : 'broken document';
    } catch (error) {
      throw new Error(`Mixture: data set "${name}", document ${index}: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Builds the sample and loads its media; made anew without those that turn out to be unreadable. */
  private async loadSample(state: DatasetState, document: Document, position: number): Promise<LoadedSample | string> {
    const { config } = state;
    const loaded = new Map<MediaRef, Float32Array | undefined>();
    for (let readable = document; ;) {
      const stream = seededStream(this.config.seed, config.name, 'sample', position);
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
      const parts = readable.parts.filter(
        (part) => !('media' in part && loaded.has(part.media) && !loaded.get(part.media)),
      );
      readable = { ...readable, parts };
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

function checkConfig({ datasets }: MixtureConfig): void {
  if (datasets.length === 0) throw new Error('Mixture: datasets is empty; give at least one.');
  const names = new Set<string>();
  for (const { name, weight, batchSize, source, ...options } of datasets) {
    const where = `Mixture: data set "${name}"`;
    if (names.has(name)) throw new Error(`${where} occurs twice. Names must differ: they seed the order.`);
    names.add(name);
    if (!(weight >= 0)) throw new Error(`${where}: weight must be 0 or more, got ${weight}.`);
    if (!Number.isInteger(batchSize) || batchSize < 1) {
      throw new Error(`${where}: batchSize must be a whole number from 1, got ${batchSize}.`);
    }
    if (!(source.length > 0)) throw new Error(`${where}: its source is empty.`);
    checkSampleOptions(where, options);
  }
}
