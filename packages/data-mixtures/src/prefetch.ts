/**
 * Prepares up to `ahead` items while the consumer works on the one it has. Items keep their order; an error comes at its
 * own place; leaving the loop ends the source.
 */
export async function* prefetch<T>(source: AsyncIterable<T>, ahead = 2): AsyncGenerator<T, void, undefined> {
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
      const { done, value } = await pending.shift()!;
      if (done) return;
      yield value;
    }
  } finally {
    await iterator.return?.();
  }
}
