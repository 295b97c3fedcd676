/**
 * Prepares up to `ahead` items while the consumer works on the one it has. Items keep their order; an error comes at its
 * own place; leaving the loop ends the source.
 *
 * A consumer may compute without a break, during which nothing moves on this thread and only workers go on. So before it
 * gets an item, what was asked for is sent on its way: the event loop turns once, and `source.settled` is awaited.
 */
export async function* prefetch<T>(source: Prefetchable<T>, ahead = 2): AsyncGenerator<T, void, undefined> {
  const iterator = source[Symbol.asyncIterator]();
  const pending: Promise<IteratorResult<T>>[] = [];
  const ask = () => {
    const item = iterator.next();
    // The error is reported when its turn comes; until then it must not count as unhandled.
    item.catch(() => undefined);
    pending.push(item);
  };
  try {
    for (;;) {
      while (pending.length <= ahead) ask();
      await new Promise((resolve) => setImmediate(resolve));
      await source.settled?.();
      const { done, value } = await pending.shift()!;
      if (done) return;
      yield value;
    }
  } finally {
    await iterator.return?.();
  }
}

/** What `prefetch` takes. */
export interface Prefetchable<T> extends AsyncIterable<T> {
  /** Resolves once everything asked for so far waits for workers alone. Needed where this thread reads files first. */
  settled?(): Promise<void>;
}
