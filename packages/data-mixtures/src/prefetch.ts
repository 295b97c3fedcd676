import { expectWhole } from './checks';

/**
 * Prepares up to `ahead` items while the consumer works on the current one. Keeps the order of items and throws an error at
 * the position of its item. Leaving the loop closes the source.
 *
 * A consumer may block this thread with computation, while worker threads continue. So before `prefetch` yields an
 * item, it makes sure that the next ones have been sent to the workers: it lets the event loop run and awaits
 * `source.whenDispatched`.
 */
export async function* prefetch<T>(source: Prefetchable<T>, ahead = 2): AsyncGenerator<T, void, undefined> {
  expectWhole('prefetch: ahead', ahead, 0);
  const iterator = source[Symbol.asyncIterator]();
  const pending: Promise<IteratorResult<T>>[] = [];
  const request = () => {
    const item = iterator.next();
    // The error is thrown when its item is due. Until then it must not count as an unhandled rejection.
    item.catch(() => undefined);
    pending.push(item);
  };
  try {
    for (;;) {
      while (pending.length <= ahead) request();
      await new Promise((resolve) => setImmediate(resolve));
      await source.whenDispatched?.();
      const { done, value } = await pending.shift()!;
      if (done) return;
      yield value;
    }
  } finally {
    await iterator.return?.();
  }
}

/** A source for `prefetch`. */
export interface Prefetchable<T> extends AsyncIterable<T> {
  /** Resolves once all pending items wait only for worker threads. Required if this thread reads files first. */
  whenDispatched?(): Promise<void>;
}
