/** What this thread is reading from a disk: it must stay free for it, whereas workers go on by themselves. */
export class PendingReads {
  private readonly promises = new Set<Promise<unknown>>();

  /** Gives the promise back. */
  add<T>(promise: Promise<T>): Promise<T> {
    const forget = () => void this.promises.delete(promise);
    this.promises.add(promise);
    promise.then(forget, forget);
    return promise;
  }

  /** Resolves once nothing is being read, and what was read has led to nothing more: a document to its images. */
  async settled(): Promise<void> {
    do {
      await Promise.allSettled(this.promises);
      await new Promise((resolve) => setImmediate(resolve));
    } while (this.promises.size > 0);
  }
}
