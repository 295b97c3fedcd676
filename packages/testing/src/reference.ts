import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { parseSafetensors, type StoredTensor } from '@flamingo-ts/checkpoint';
import type { StateTensor } from '@flamingo-ts/kernels';

/** A reference: its description (NAME.json) and its tensors (NAME.safetensors). */
export interface Reference {
  /** The JSON; an empty object if there is none. */
  // Each kind of reference has its own format; tests check what they need.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly meta: any;
  /** The safetensors, read on first use; empty if there is none. */
  readonly tensors: Readonly<Record<string, StoredTensor>>;
  /** A new tensor on the current backend: floats as float32, whole numbers as int32, booleans as bool. */
  tensor(name: string): tf.Tensor;
}

/**
 * Reads NAME.json and NAME.safetensors, or the one that exists.
 *
 * @param at path or file URL, with or without an extension
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
        throw new Error(`${numbers}: no tensor ${name}, only ${some || 'none'}. Check the name.`);
      }
      return toTensor(stored);
    },
  };
}

/** The float tensors of a reference whose names start with a prefix such as `param.`, by name without the prefix. */
export function stateFrom({ tensors }: Reference, prefix: string): Record<string, StateTensor> {
  const matching = Object.entries(tensors).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(
    matching.map(([name, { shape, data }]) => [name.slice(prefix.length), { shape, data: data as Float32Array }]),
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
