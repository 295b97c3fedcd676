import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Augmentation } from './augmentation';
import { expectColor, expectOneOf, expectWhole } from './checks';
import type { EncodedImage } from './document';

/** How images are converted to the input of a vision encoder. */
export interface ImageFormat {
  /** Side of the square in pixels. Paper: 320, and 288 for the contrastive stage. */
  readonly size: number;
  /** `pad` keeps the whole image and fills the rest of the square with the mean (paper); `crop` cuts the longer side. */
  readonly fit: 'pad' | 'crop';
  /** Mean of red, green and blue, 0 to 1. */
  readonly mean: readonly [number, number, number];
  /** Standard deviation of red, green and blue. `decode` returns (value - mean) / std. */
  readonly std: readonly [number, number, number];
}

export interface ImageDecoderOptions {
  /** Number of threads. Defaults to one less than the cores, at least one. */
  readonly workers?: number;
}

export interface DecodeReport {
  readonly decoded: number;
  readonly unreadable: number;
  /** The first hundred failures. */
  readonly failures: readonly { readonly name: string; readonly reason: string }[];
}

const MAX_FAILURES_KEPT = 100;

interface Job {
  readonly image: EncodedImage;
  readonly name: string;
  readonly normalized: boolean;
  readonly augmentation: Augmentation | undefined;
  resolve(pixels: Float32Array | Uint8Array | undefined): void;
  reject(error: Error): void;
}

interface Thread {
  readonly worker: Worker;
  /** Pending jobs, in the order in which the worker answers. */
  readonly jobs: Job[];
}

type Reply =
  | { readonly fatal: string }
  | { readonly stuck: string }
  | { readonly error: string }
  | { readonly pixels: Float32Array | Uint8Array };

/**
 * Decodes images with sharp in worker threads. Sends every image to a worker at once, so that workers continue while the
 * calling thread computes. For an unreadable image it returns undefined and counts it; only a missing sharp is an error.
 * Idle workers do not keep the process alive.
 */
export class ImageDecoder {
  private readonly threads: Thread[] = [];
  private readonly failures: { name: string; reason: string }[] = [];
  private readonly workers: number;
  private decoded = 0;
  private unreadable = 0;
  private closed = false;

  constructor(
    readonly format: ImageFormat,
    { workers = Math.max(1, availableParallelism() - 1) }: ImageDecoderOptions = {},
  ) {
    expectWhole('ImageDecoder: size', format.size, 1);
    expectOneOf('ImageDecoder: fit', format.fit, ['pad', 'crop']);
    expectColor('ImageDecoder: mean', format.mean);
    expectColor('ImageDecoder: std', format.std, true);
    expectWhole('ImageDecoder: workers', workers, 1);
    this.workers = workers;
  }

  /** @returns float32 [size, size, 3], normalized; undefined for an unreadable image */
  decode(image: EncodedImage, name?: string): Promise<Float32Array | undefined> {
    return this.enqueue(image, name, true) as Promise<Float32Array | undefined>;
  }

  /**
   * @param augmentation from `drawAugmentation`
   * @returns      uint8 [size, size, 3], not normalized; undefined for an unreadable image
   */
  decodeBytes(image: EncodedImage, name?: string, augmentation?: Augmentation): Promise<Uint8Array | undefined> {
    return this.enqueue(image, name, false, augmentation) as Promise<Uint8Array | undefined>;
  }

  report(): DecodeReport {
    return { decoded: this.decoded, unreadable: this.unreadable, failures: [...this.failures] };
  }

  /** Stops the workers. Pending images are rejected. */
  async close(): Promise<void> {
    this.closed = true;
    const threads = this.threads.splice(0);
    const refused = threads.flatMap((thread) => thread.jobs);
    await Promise.all(threads.map(stop));
    for (const job of refused) job.reject(new Error(`ImageDecoder: closed while ${job.name} was waiting.`));
  }

  private enqueue(
    image: EncodedImage,
    name = typeof image === 'string' ? image : 'bytes in memory',
    normalized: boolean,
    augmentation?: Augmentation,
  ) {
    return new Promise<Float32Array | Uint8Array | undefined>((resolve, reject) => {
      if (this.closed)
        return reject(new Error(`ImageDecoder: ${name} was requested after close(). Create a new decoder.`));
      this.send({ image, name, normalized, augmentation, resolve, reject });
    });
  }

  private send(job: Job): void {
    const thread = this.idlestThread();
    thread.jobs.push(job);
    thread.worker.ref();
    // Transfers a copy, because cloning a view would clone its whole buffer, such as a shard.
    const image = typeof job.image === 'string' ? job.image : new Uint8Array(job.image);
    const { normalized, augmentation } = job;
    thread.worker.postMessage({ image, normalized, augmentation }, typeof image === 'string' ? [] : [image.buffer]);
  }

  private idlestThread(): Thread {
    const idlest = this.threads.reduce<Thread | undefined>(
      (a, b) => (a && a.jobs.length <= b.jobs.length ? a : b),
      undefined,
    );
    if (idlest && (idlest.jobs.length === 0 || this.threads.length === this.workers)) return idlest;
    const thread = this.spawn();
    this.threads.push(thread);
    return thread;
  }

  private spawn(): Thread {
    const worker = new Worker(new URL('./decode-worker.js', import.meta.url), {
      workerData: this.format,
      execArgv: [],
    });
    worker.unref();
    const thread: Thread = { worker, jobs: [] };
    worker.on('message', (reply: Reply) => this.settle(thread, reply));
    worker.on('error', (error) => this.replace(thread, `the worker failed: ${error.message}`));
    return thread;
  }

  private settle(thread: Thread, reply: Reply): void {
    if ('fatal' in reply) {
      const error = new Error(
        `ImageDecoder: failed to load sharp (${reply.fatal}). Install it for this platform: npm install sharp.`,
      );
      for (const job of this.dismiss(thread)) job.reject(error);
    } else if ('stuck' in reply) {
      this.replace(thread, reply.stuck);
    } else {
      const job = thread.jobs.shift();
      if (thread.jobs.length === 0) thread.worker.unref();
      if (job && 'pixels' in reply) {
        this.decoded++;
        job.resolve(reply.pixels);
      } else if (job) this.fail(job, (reply as { error: string }).error);
    }
  }

  /** Replaces a worker that crashed or hangs. Its current image is unreadable; its other jobs go to other workers. */
  private replace(thread: Thread, reason: string): void {
    const [job, ...others] = this.dismiss(thread);
    if (job) this.fail(job, reason);
    for (const other of others) this.send(other);
  }

  private fail(job: Job, reason: string): void {
    this.unreadable++;
    if (this.failures.length < MAX_FAILURES_KEPT) this.failures.push({ name: job.name, reason });
    job.resolve(undefined);
  }

  /** Stops a worker and returns its pending jobs. */
  private dismiss(thread: Thread): Job[] {
    this.threads.splice(this.threads.indexOf(thread), 1);
    void stop(thread);
    return thread.jobs;
  }
}

function stop({ worker }: Thread): Promise<number> {
  worker.removeAllListeners();
  // A terminating worker may still report an error.
  worker.on('error', () => undefined);
  worker.unref();
  return worker.terminate();
}
