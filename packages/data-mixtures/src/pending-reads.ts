/** Tracks reads that need this thread, unlike the work of worker threads. */
export class PendingReads {
  private readonly promises = new Set<Promise<unknown>>();

  /** Tracks a promise and returns it. */
  add<T>(promise: Promise<T>): Promise<T> {
    const forget = () => void this.promises.delete(promise);
    this.promises.add(promise);
    promise.then(forget, forget);
    return promise;
  }

  /** Resolves when no reads are pending, including those that finished reads have started. */
  async whenDone(): Promise<void> {
    do {
      await Promise.allSettled(this.promises);
      await new Promise((resolve) => setImmediate(resolve));
    } while (this.promises.size > 0);
  }
}
