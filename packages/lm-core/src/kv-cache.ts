import * as tf from '@tensorflow/tfjs-core';
import { writeRows } from '@flamingo-ts/kernels';

/** Keys and values of one layer so far, both float32 `[rows, keys, width]`. */
export interface LayerCache {
  readonly keys: tf.Tensor3D;
  readonly values: tf.Tensor3D;
}

/** A `LayerCache` with spare capacity, float32 `[rows, capacity, width]`. Pass `length` to `attention` as `keyCount`. */
export interface LayerBuffers extends LayerCache {
  /** Number of keys in use; the values after them are undefined. */
  readonly length: number;
}

/** Capacity grows by half, rounded up to a multiple of this. */
const ROOM = 64;

/**
 * Keys and values of every layer while a model reads a prompt and continues it token by token.
 *
 * Rows are sequences. `gather` reorders, repeats and drops them: for beams that swap, one prompt with many candidates, and
 * finished sequences. New positions are written into spare capacity, so that adding a token does not copy the earlier ones.
 * The tensors outlive `tf.tidy`; `dispose` frees them.
 */
export class KVCache {
  private readonly layers: (LayerBuffers | undefined)[];
  private readonly kept = new Map<string, tf.Tensor>();

  /** @param numLayers blocks of the model; block `i` appends to layer `i` */
  constructor(readonly numLayers: number) {
    this.layers = new Array<LayerBuffers | undefined>(numLayers).fill(undefined);
  }

  /** Number of positions that every layer holds. Within a block: the first position of the current call. */
  get length(): number {
    return this.layers[this.numLayers - 1]?.length ?? 0;
  }

  /** Bytes of keys and values, spare capacity included. */
  get bytes(): number {
    return this.layers.reduce((sum, layer) => sum + (layer ? 4 * (layer.keys.size + layer.values.size) : 0), 0);
  }

  /** A copy of what a layer holds, or undefined before its first `append`. */
  layer(index: number): LayerCache | undefined {
    const layer = this.layers[index];
    return layer && { keys: filled(layer.keys, layer.length), values: filled(layer.values, layer.length) };
  }

  /**
   * Adds the keys and values of new positions and returns a copy of all of them, oldest first.
   *
   * @param layer  index of the block
   * @param keys   float32 `[rows, text, width]`
   * @param values float32 `[rows, text, width]`
   */
  append(layer: number, keys: tf.Tensor3D, values: tf.Tensor3D): LayerCache {
    this.extend(layer, keys, values);
    return this.layer(layer)!;
  }

  /** Like `append`, but returns the cache's own tensors without a copy, spare capacity included. Do not dispose them. */
  extend(layer: number, keys: tf.Tensor3D, values: tf.Tensor3D): LayerBuffers {
    if (layer >= this.numLayers) {
      throw new Error(
        `KVCache.append: layer must be below ${this.numLayers}, got ${layer}. ` +
          'Create the cache with the number of blocks of the model that uses it.',
      );
    }
    const past = this.layers[layer];
    if (past && past.keys.shape[0] !== keys.shape[0]) {
      throw new Error(
        `KVCache.append: expected ${past.keys.shape[0]} rows, got ${keys.shape[0]}. ` +
          'Call gather(rows) before feeding another number of sequences.',
      );
    }
    const at = past?.length ?? 0;
    const length = at + keys.shape[1];
    const next = {
      keys: written(past?.keys, keys, at, length),
      values: written(past?.values, values, at, length),
      length,
    };
    this.layers[layer] = next;
    return next;
  }

  /** Makes row `i` a copy of the former row `rows[i]`. */
  gather(rows: readonly number[]): void {
    const current = this.layers[0]?.keys.shape[0];
    if (current === undefined || (rows.length === current && rows.every((row, i) => row === i))) return;
    this.layers.forEach((past, layer) => {
      if (past) this.replace(layer, take(past, rows));
    });
  }

  /** A second cache whose row `i` starts as row `rows[i]` of this one, which does not change. */
  fork(rows: readonly number[]): KVCache {
    const copy = new KVCache(this.numLayers);
    this.layers.forEach((past, layer) => {
      if (past) copy.layers[layer] = take(past, rows);
    });
    return copy;
  }

  /**
   * A tensor that depends only on the model's weights and is needed again for the next token, such as projected positions.
   * It is made at the first call and freed with the cache.
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

  private replace(layer: number, next: LayerBuffers | undefined): void {
    const past = this.layers[layer];
    past?.keys.dispose();
    past?.values.dispose();
    this.layers[layer] = next;
  }
}

/** Writes rows after those of `past`, which is disposed or reused, and allocates more capacity if needed. */
function written(past: tf.Tensor3D | undefined, rows: tf.Tensor3D, at: number, length: number): tf.Tensor3D {
  const [b, , width] = rows.shape;
  const capacity = past?.shape[1] ?? 0;
  let room = past;
  if (!room || capacity < length) {
    const more = Math.ceil(Math.max(length + 1, 1.5 * capacity) / ROOM) * ROOM;
    room = tf.tidy(() => {
      if (!past) return tf.keep(tf.zeros([b, more, width]) as tf.Tensor3D);
      return tf.keep(tf.concat([past, tf.zeros([b, more - capacity, width])], 1) as tf.Tensor3D);
    });
    past?.dispose();
  }
  const next = writeRows(room, rows, at);
  if (next !== room) {
    tf.keep(next);
    room.dispose();
  }
  return next;
}

function filled(x: tf.Tensor3D, length: number): tf.Tensor3D {
  return tf.slice(x, [0, 0, 0], [x.shape[0], length, x.shape[2]]);
}

function take({ keys, values, length }: LayerBuffers, rows: readonly number[]): LayerBuffers {
  return tf.tidy(() => {
    const index = tf.tensor1d([...rows], 'int32');
    return { keys: tf.keep(tf.gather(keys, index)), values: tf.keep(tf.gather(values, index)), length };
  });
}
