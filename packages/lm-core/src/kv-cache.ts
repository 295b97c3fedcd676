import * as tf from '@tensorflow/tfjs-core';

/** What one layer has seen so far, both float32 `[rows, keys, width]`. */
export interface LayerCache {
  readonly keys: tf.Tensor3D;
  readonly values: tf.Tensor3D;
}

/**
 * Keys and values of every layer while a model reads a prompt and goes on token by token.
 *
 * Rows are sequences. `gather` reorders, repeats and drops them: beams that change places, one prompt spread over many
 * candidates, sequences that are done. The tensors outlive `tf.tidy`; `dispose` frees them.
 */
export class KVCache {
  private readonly layers: (LayerCache | undefined)[];
  private readonly kept = new Map<string, tf.Tensor>();

  /** @param numLayers blocks of the model; block `i` appends to layer `i` */
  constructor(readonly numLayers: number) {
    this.layers = new Array<LayerCache | undefined>(numLayers).fill(undefined);
  }

  /** Positions that every layer holds: the first position of the call in progress, seen from any block. */
  get length(): number {
    return this.layers[this.numLayers - 1]?.keys.shape[1] ?? 0;
  }

  /** Bytes of keys and values held. */
  get bytes(): number {
    return this.layers.reduce((sum, layer) => sum + (layer ? 4 * (layer.keys.size + layer.values.size) : 0), 0);
  }

  /** What a layer holds now; nothing before its first `append`. */
  layer(index: number): LayerCache | undefined {
    return this.layers[index];
  }

  /**
   * Adds the keys and values of new positions and returns all of them, oldest first.
   *
   * @param layer  index of the block
   * @param keys   float32 `[rows, text, width]`
   * @param values float32 `[rows, text, width]`
   */
  append(layer: number, keys: tf.Tensor3D, values: tf.Tensor3D): LayerCache {
    if (layer >= this.numLayers) {
      throw new Error(
        `KVCache.append: layer must be below ${this.numLayers}, got ${layer}. ` +
          'Make the cache with the number of blocks of the model that uses it.',
      );
    }
    const past = this.layers[layer];
    if (past && past.keys.shape[0] !== keys.shape[0]) {
      throw new Error(
        `KVCache.append: expected ${past.keys.shape[0]} rows, got ${keys.shape[0]}. ` +
          'Call gather(rows) before feeding another number of sequences.',
      );
    }
    const join = (old: tf.Tensor3D | undefined, more: tf.Tensor3D) =>
      tf.keep(old ? tf.concat([old, more], 1) : tf.clone(more));
    const next = tf.tidy(() => ({ keys: join(past?.keys, keys), values: join(past?.values, values) }));
    this.replace(layer, next);
    return next;
  }

  /** Makes row `i` a copy of what row `rows[i]` was. */
  gather(rows: readonly number[]): void {
    const current = this.layers[0]?.keys.shape[0];
    if (current === undefined || (rows.length === current && rows.every((row, i) => row === i))) return;
    this.layers.forEach((past, layer) => {
      if (past) this.replace(layer, take(past, rows));
    });
  }

  /** A second cache whose row `i` starts as row `rows[i]` of this one, which stays as it is. */
  fork(rows: readonly number[]): KVCache {
    const copy = new KVCache(this.numLayers);
    this.layers.forEach((past, layer) => {
      if (past) copy.layers[layer] = take(past, rows);
    });
    return copy;
  }

  /**
   * A tensor that depends on the model's weights alone and that the model wants again at the next token, such as
   * projected positions: made at the first call, freed with the cache.
   */
  remember<T extends tf.Tensor>(name: string, make: () => T): T {
    let tensor = this.kept.get(name);
    if (!tensor) this.kept.set(name, (tensor = tf.keep(tf.tidy(make))));
    return tensor as T;
  }

  dispose(): void {
    this.layers.forEach((_, layer) => this.replace(layer, undefined));
    for (const tensor of this.kept.values()) tensor.dispose();
    this.kept.clear();
  }

  private replace(layer: number, next: LayerCache | undefined): void {
    const past = this.layers[layer];
    past?.keys.dispose();
    past?.values.dispose();
    this.layers[layer] = next;
  }
}

function take(past: LayerCache, rows: readonly number[]): LayerCache {
  return tf.tidy(() => {
    const index = tf.tensor1d([...rows], 'int32');
    return { keys: tf.keep(tf.gather(past.keys, index)), values: tf.keep(tf.gather(past.values, index)) };
  });
}
