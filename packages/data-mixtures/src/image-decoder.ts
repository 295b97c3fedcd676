import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { EncodedImage } from './document';

/** How images reach the vision encoder. */
export interface ImageFormat {
  /** Side of the square in pixels. Paper: 320, and 288 for the contrastive stage. */
  readonly size: number;
  /** `pad` keeps the whole image and fills the square with the mean (paper); `crop` fills it and cuts what hangs over. */
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

const MAX_FAILURES_KEPT = 100;

interface Job {
  readonly image: EncodedImage;
  readonly name: string;
  readonly normalised: boolean;
  resolve(pixels: Float32Array | Uint8Array | undefined): void;
  reject(error: Error): void;
}

interface Seat {
  readonly worker: Worker;
  /** What the worker was given, in the order in which it answers. */
  readonly jobs: Job[];
}

type Reply =
  | { readonly fatal: string }
  | { readonly stuck: string }
  | { readonly error: string }
  | { readonly pixels: Float32Array | Uint8Array };

/**
 * Decodes images with sharp in worker threads. Workers are given every image as soon as it is asked for, so they go
 * on while the calling thread computes and hears none of their answers. An image that cannot be read is counted, named
 * and given as undefined; only a missing sharp is an error. Idle workers do not keep the process alive.
 */
export class ImageDecoder {
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

  /** @returns float32 [size, size, 3], normalised; undefined for an image that cannot be read */
  decode(image: EncodedImage, name?: string): Promise<Float32Array | undefined> {
    return this.enqueue(image, name, true) as Promise<Float32Array | undefined>;
  }

  /** @returns uint8 [size, size, 3], as it would be shown; undefined for an image that cannot be read */
  decodeBytes(image: EncodedImage, name?: string): Promise<Uint8Array | undefined> {
    return this.enqueue(image, name, false) as Promise<Uint8Array | undefined>;
  }

  report(): DecodeReport {
    return { decoded: this.decoded, unreadable: this.unreadable, failures: [...this.failures] };
  }

  /** Ends the workers; images still waiting are refused. */
  async close(): Promise<void> {
    this.closed = true;
    const seats = this.seats.splice(0);
    const refused = seats.flatMap((seat) => seat.jobs);
    await Promise.all(seats.map(vacate));
    for (const job of refused) job.reject(new Error(`ImageDecoder: closed while ${job.name} was waiting.`));
  }

  private enqueue(
    image: EncodedImage,
    name = typeof image === 'string' ? image : 'bytes in memory',
    normalised: boolean,
  ) {
    return new Promise<Float32Array | Uint8Array | undefined>((resolve, reject) => {
      if (this.closed) return reject(new Error(`ImageDecoder: ${name} came after close(). Make a new decoder.`));
      this.give({ image, name, normalised, resolve, reject });
    });
  }

  private give(job: Job): void {
    const seat = this.freestSeat();
    seat.jobs.push(job);
    seat.worker.ref();
    // A copy, handed over: cloning a view would clone all of the buffer under it, a whole shard perhaps.
    const image = typeof job.image === 'string' ? job.image : new Uint8Array(job.image);
    seat.worker.postMessage({ image, normalised: job.normalised }, typeof image === 'string' ? [] : [image.buffer]);
  }

  private freestSeat(): Seat {
    const freest = this.seats.reduce<Seat | undefined>(
      (a, b) => (a && a.jobs.length <= b.jobs.length ? a : b),
      undefined,
    );
    if (freest && (freest.jobs.length === 0 || this.seats.length === this.workers)) return freest;
    const seat = this.hire();
    this.seats.push(seat);
    return seat;
  }

  private hire(): Seat {
    const worker = new Worker(new URL('./decode-worker.js', import.meta.url), {
      workerData: this.format,
      execArgv: [],
    });
    worker.unref();
    const seat: Seat = { worker, jobs: [] };
    worker.on('message', (reply: Reply) => this.settle(seat, reply));
    worker.on('error', (error) => this.replace(seat, `the worker failed: ${error.message}`));
    return seat;
  }

  private settle(seat: Seat, reply: Reply): void {
    if ('fatal' in reply) {
      const error = new Error(
        `ImageDecoder: sharp does not load (${reply.fatal}). Install it for this platform: npm install sharp.`,
      );
      for (const job of this.dismiss(seat)) job.reject(error);
    } else if ('stuck' in reply) {
      this.replace(seat, reply.stuck);
    } else {
      const job = seat.jobs.shift();
      if (seat.jobs.length === 0) seat.worker.unref();
      if (job && 'pixels' in reply) {
        this.decoded++;
        job.resolve(reply.pixels);
      } else if (job) this.fail(job, (reply as { error: string }).error);
    }
  }

  /** Ends a worker that crashed or hangs: the image that it was at is unreadable, others get what else it had. */
  private replace(seat: Seat, reason: string): void {
    const [job, ...others] = this.dismiss(seat);
    if (job) this.fail(job, reason);
    for (const other of others) this.give(other);
  }

  private fail(job: Job, reason: string): void {
    this.unreadable++;
    if (this.failures.length < MAX_FAILURES_KEPT) this.failures.push({ name: job.name, reason });
    job.resolve(undefined);
  }

  /** Ends a worker and gives what it has not answered. */
  private dismiss(seat: Seat): Job[] {
    this.seats.splice(this.seats.indexOf(seat), 1);
    void vacate(seat);
    return seat.jobs;
  }
}

function vacate({ worker }: Seat): Promise<number> {
  worker.removeAllListeners();
  // A worker on its way out may still report a failure, which nobody waits for any more.
  worker.on('error', () => undefined);
  worker.unref();
  return worker.terminate();
}
