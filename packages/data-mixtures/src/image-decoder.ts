import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { EncodedImage } from './document';

/** How pictures reach the vision encoder. */
export interface ImageFormat {
  /** Side of the square in pixels. Paper: 320, and 288 for the contrastive stage. */
  readonly size: number;
  /** `pad` keeps the whole picture and fills the square with the mean (paper); `crop` fills it and cuts what hangs over. */
  readonly fit: 'pad' | 'crop';
  /** Mean of red, green and blue, 0 to 1. */
  readonly mean: readonly [number, number, number];
  /** Standard deviation of red, green and blue; `decode` gives (value - mean) / std. */
  readonly std: readonly [number, number, number];
}

export interface ImageDecoderOptions {
  /** Default: one less than the cores, at least one. */
  readonly workers?: number;
}

export interface DecodeReport {
  readonly decoded: number;
  readonly unreadable: number;
  /** The first hundred of them. */
  readonly failures: readonly { readonly name: string; readonly reason: string }[];
}

/** A picture that keeps a worker busy this long is hostile or broken: the worker is ended and replaced. */
const TIMEOUT_MS = 30_000;
const MAX_FAILURES_KEPT = 100;

interface Job {
  readonly image: EncodedImage;
  readonly name: string;
  readonly normalised: boolean;
  resolve(pixels: Float32Array | Uint8Array | undefined): void;
  reject(error: Error): void;
}

interface Seat {
  worker: Worker;
  job?: Job;
  timer?: NodeJS.Timeout;
}

type Reply = { readonly fatal: string } | { readonly error: string } | { readonly pixels: Float32Array | Uint8Array };

/**
 * Decodes pictures with sharp in worker threads. A picture that cannot be read is counted, named and given as
 * undefined; only a missing sharp is an error. Idle workers do not keep the process alive.
 */
export class ImageDecoder {
  private readonly waiting: Job[] = [];
  private readonly seats: Seat[] = [];
  private readonly failures: { name: string; reason: string }[] = [];
  private readonly workers: number;
  private decoded = 0;
  private unreadable = 0;
  private closed = false;

  constructor(
    readonly format: ImageFormat,
    { workers = Math.max(1, availableParallelism() - 1) }: ImageDecoderOptions = {},
  ) {
    const { size, std } = format;
    if (!Number.isInteger(size) || size < 1) throw new Error(`ImageDecoder: size must be a whole number, got ${size}.`);
    if (!std.every((s) => s > 0)) throw new Error(`ImageDecoder: std must be three numbers above 0, got ${std}.`);
    if (!Number.isInteger(workers) || workers < 1) {
      throw new Error(`ImageDecoder: workers must be a whole number from 1, got ${workers}.`);
    }
    this.workers = workers;
  }

  /** @returns float32 [size, size, 3], normalised; undefined for a picture that cannot be read */
  decode(image: EncodedImage, name?: string): Promise<Float32Array | undefined> {
    return this.enqueue(image, name, true) as Promise<Float32Array | undefined>;
  }

  /** @returns uint8 [size, size, 3], as it would be shown; undefined for a picture that cannot be read */
  decodeBytes(image: EncodedImage, name?: string): Promise<Uint8Array | undefined> {
    return this.enqueue(image, name, false) as Promise<Uint8Array | undefined>;
  }

  report(): DecodeReport {
    return { decoded: this.decoded, unreadable: this.unreadable, failures: [...this.failures] };
  }

  /** Ends the workers; pictures still waiting are refused. */
  async close(): Promise<void> {
    this.closed = true;
    const refused = [...this.waiting.splice(0), ...this.seats.flatMap((seat) => seat.job ?? [])];
    await Promise.all(this.seats.splice(0).map((seat) => this.vacate(seat)));
    for (const job of refused) job.reject(new Error(`ImageDecoder: closed while ${job.name} was waiting.`));
  }

  private enqueue(
    image: EncodedImage,
    name = typeof image === 'string' ? image : 'bytes in memory',
    normalised: boolean,
  ) {
    return new Promise<Float32Array | Uint8Array | undefined>((resolve, reject) => {
      if (this.closed) return reject(new Error(`ImageDecoder: ${name} came after close(). Make a new decoder.`));
      this.waiting.push({ image, name, normalised, resolve, reject });
      this.dispatch();
    });
  }

  private dispatch(): void {
    while (this.waiting.length > 0) {
      let seat = this.seats.find((s) => !s.job);
      if (!seat && this.seats.length < this.workers) this.seats.push((seat = this.hire()));
      if (!seat) return;
      const job = this.waiting.shift()!;
      seat.job = job;
      seat.worker.ref();
      seat.timer = setTimeout(() => this.replace(seat, `no answer within ${TIMEOUT_MS / 1000} s`), TIMEOUT_MS);
      // A copy, handed over: cloning a view would clone all of the buffer under it, a whole shard perhaps.
      const image = typeof job.image === 'string' ? job.image : new Uint8Array(job.image);
      seat.worker.postMessage({ image, normalised: job.normalised }, typeof image === 'string' ? [] : [image.buffer]);
    }
  }

  private hire(): Seat {
    const worker = new Worker(new URL('./decode-worker.js', import.meta.url), {
      workerData: this.format,
      execArgv: [],
    });
    worker.unref();
    const seat: Seat = { worker };
    worker.on('message', (reply: Reply) => this.settle(seat, reply));
    worker.on('error', (error) => this.replace(seat, `the worker failed: ${error.message}`));
    return seat;
  }

  private settle(seat: Seat, reply: Reply): void {
    const job = seat.job;
    this.release(seat);
    if ('fatal' in reply) {
      this.seats.splice(this.seats.indexOf(seat), 1);
      void seat.worker.terminate();
      const error = new Error(
        `ImageDecoder: sharp does not load (${reply.fatal}). Install it for this platform: npm install sharp.`,
      );
      for (const waiting of [...(job ? [job] : []), ...this.waiting.splice(0)]) waiting.reject(error);
      return;
    }
    if (job && 'pixels' in reply) {
      this.decoded++;
      job.resolve(reply.pixels);
    } else if (job) this.fail(job, (reply as { error: string }).error);
    this.dispatch();
  }

  /** Ends a worker that crashed or hangs; the next picture gets a new one. */
  private replace(seat: Seat, reason: string): void {
    const job = seat.job;
    const place = this.seats.indexOf(seat);
    if (place < 0) return;
    this.seats.splice(place, 1);
    void this.vacate(seat);
    if (job) this.fail(job, reason);
    this.dispatch();
  }

  private fail(job: Job, reason: string): void {
    this.unreadable++;
    if (this.failures.length < MAX_FAILURES_KEPT) this.failures.push({ name: job.name, reason });
    job.resolve(undefined);
  }

  private release(seat: Seat): void {
    clearTimeout(seat.timer);
    seat.job = undefined;
    seat.worker.unref();
  }

  private vacate(seat: Seat): Promise<number> {
    this.release(seat);
    seat.worker.removeAllListeners();
    // A worker on its way out may still report a failure, which nobody waits for any more.
    seat.worker.on('error', () => undefined);
    return seat.worker.terminate();
  }
}
