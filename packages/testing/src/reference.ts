import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { parseSafetensors, type StoredTensor } from '@flamingo-ts/checkpoint';
import type { StateTensor } from '@flamingo-ts/kernels';

/** A reference file: what it says of itself (NAME.json) and its numbers (NAME.safetensors). */
export interface Reference {
  /** The JSON; an empty object when there is none. */
  // Sidecars have as many forms as kinds of cases; their readers check what they need.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly meta: any;
  /** The safetensors, read on first use; empty when there is none. */
  readonly tensors: Readonly<Record<string, StoredTensor>>;
  /** A new tensor on the current backend: floats as float32, whole numbers as int32, booleans as bool. */
  tensor(name: string): tf.Tensor;
}

/**
 * Reads NAME.json and NAME.safetensors, or whichever of the two there is.
 *
 * @param at path or file URL: with either extension, or without one
 */
export function loadReference(at: string | URL): Reference {
  const path = at instanceof URL ? fileURLToPath(at) : at;
  const stem = path.replace(/\.(json|safetensors)$/, '');
  const [json, numbers] = [`${stem}.json`, `${stem}.safetensors`];
  if (!existsSync(json) && !existsSync(numbers)) {
    throw new Error(`loadReference: neither ${json} nor ${numbers} exists. Check the name of the reference.`);
  }
  let tensors: Readonly<Record<string, StoredTensor>> | undefined;
  return {
    meta: existsSync(json) ? readJson(json) : {},
    get tensors() {
      tensors ??= existsSync(numbers) ? parseSafetensors(readFileSync(numbers), numbers).tensors : {};
      return tensors;
    },
    tensor(name) {
      const stored = this.tensors[name];
      if (!stored) {
        const known = Object.keys(this.tensors);
        const some = `${known.slice(0, 12).join(', ')}${known.length > 12 ? ', ...' : ''}`;
        throw new Error(`${numbers}: no tensor ${name}; it has ${some || 'none'}.`);
      }
      return toTensor(stored);
    },
  };
}

/** The float tensors of a reference whose names begin with a prefix, without it: `param.`, `grad.`. */
export function stateFrom({ tensors }: Reference, prefix: string): Record<string, StateTensor> {
  const found = Object.entries(tensors).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(
    found.map(([name, { shape, data }]) => [name.slice(prefix.length), { shape, data: data as Float32Array }]),
  );
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new Error(`${path} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

function toTensor({ dtype, shape, data }: StoredTensor): tf.Tensor {
  if (data instanceof Float32Array) return tf.tensor(data, [...shape], 'float32');
  if (dtype === 'BOOL') return tf.tensor(data as Uint8Array, [...shape], 'bool');
  return tf.tensor(Int32Array.from(data, Number), [...shape], 'int32');
}
