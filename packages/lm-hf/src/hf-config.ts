import type { Activation } from '@flamingo-ts/kernels';
import { rotaryFrequencies, type RotaryScaling } from './positions';

/** Content of a config.json. */
export type HFConfigJson = Readonly<Record<string, unknown>>;

/** Names of activations in transformers' configs. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  relu: 'relu',
  relu2: 'squared-relu',
  gelu: 'gelu',
  gelu_python: 'gelu',
  gelu_new: 'gelu-tanh',
  gelu_fast: 'gelu-tanh',
  gelu_pytorch_tanh: 'gelu-tanh',
  quick_gelu: 'quick-gelu',
  silu: 'silu',
  swish: 'silu',
};

/**
 * Reads a config.json key by key. A missing key or null has the default of transformers' class; every error names the key.
 * Other keys are ignored: many concern only training.
 */
export class HFConfig {
  /** @param what the file, and the key of a section of it, for error messages */
  constructor(
    private readonly json: HFConfigJson,
    readonly what: string,
  ) {}

  has(key: string): boolean {
    return (this.json[key] ?? null) !== null;
  }

  /** A whole number of at least 1. */
  size(key: string, missing?: number): number {
    const value = this.number(key, missing);
    if (!Number.isInteger(value) || value < 1) throw this.wrong(key, 'a whole number of at least 1');
    return value;
  }

  number(key: string, missing?: number): number {
    const value = this.has(key) ? this.json[key] : missing;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.wrong(key, 'a number');
    return value;
  }

  flag(key: string, missing: boolean): boolean {
    const value = this.has(key) ? this.json[key] : missing;
    if (typeof value !== 'boolean') throw this.wrong(key, 'true or false');
    return value;
  }

  text(key: string, missing: string): string {
    const value = this.has(key) ? this.json[key] : missing;
    if (typeof value !== 'string') throw this.wrong(key, 'a string');
    return value;
  }

  activation(key: string, missing: string): Activation {
    const name = this.text(key, missing);
    if (!Object.hasOwn(ACTIVATIONS, name)) throw this.wrong(key, `one of ${Object.keys(ACTIVATIONS).join(', ')}`);
    return ACTIVATIONS[name]!;
  }

  /** A nested object; an empty one if it is missing. */
  section(key: string): HFConfig {
    const value = this.has(key) ? this.json[key] : {};
    if (typeof value !== 'object' || Array.isArray(value)) throw this.wrong(key, 'an object');
    return new HFConfig(value as HFConfigJson, `${this.what}: ${key}`);
  }

  /** @throws Error unless the key is missing or has one of these values, the only ones supported */
  only(key: string, ...values: readonly (string | boolean | null)[]): void {
    if (this.has(key) && !values.includes(this.json[key] as string | boolean)) {
      throw this.wrong(key, values.map((value) => JSON.stringify(value)).join(' or '));
    }
  }

  private wrong(key: string, expected: string): Error {
    const got = this.has(key) ? JSON.stringify(this.json[key]) : 'nothing';
    return new Error(
      `${this.what}: ${key} must be ${expected}, got ${got}. ` +
        'Use a checkpoint of this architecture as it was published, or a CausalLM of your own for another one.',
    );
  }
}

/** Default width of a head: hiddenSize / numHeads, which must be a whole number. */
export function headWidth(config: HFConfig, hiddenSize: number, numHeads: number): number {
  if (hiddenSize % numHeads) {
    throw new Error(
      `${config.what}: the width ${hiddenSize} must be a multiple of the number of heads, got ${numHeads}. ` +
        'Check that config.json is that of the checkpoint.',
    );
  }
  return hiddenSize / numHeads;
}

/**
 * Rotary frequencies, from the keys of transformers 5 (`rope_parameters`) or of earlier versions (`rope_scaling` and two keys
 * of the family).
 *
 * @param old the earlier keys, and the default share of a head's channels that are rotary
 */
export function rotaryOf(
  config: HFConfig,
  headDim: number,
  old: { readonly base: string; readonly share: string; readonly missingShare: number },
): number[] {
  const section = config.section(config.has('rope_parameters') ? 'rope_parameters' : 'rope_scaling');
  const base = section.number('rope_theta', config.number(old.base, 10000));
  const share = section.number('partial_rotary_factor', config.number(old.share, old.missingShare));
  const width = Math.floor(headDim * share);
  if (width < 2 || width % 2) {
    throw new Error(
      `${config.what}: ${old.share} must result in an even number of rotary channels in a head of ${headDim}, got ${width}. ` +
        'Check that config.json is that of the checkpoint.',
    );
  }
  return rotaryFrequencies(width, base, scalingOf(section));
}

function scalingOf(section: HFConfig): RotaryScaling | undefined {
  // Named type in older files.
  const key = section.has('rope_type') ? 'rope_type' : 'type';
  section.only(key, 'default', 'linear', 'llama3');
  const kind = section.text(key, 'default');
  if (kind === 'default') return undefined;
  const factor = section.number('factor');
  if (kind === 'linear') return { kind, factor };
  return {
    kind: 'llama3',
    factor,
    lowFrequency: section.number('low_freq_factor'),
    highFrequency: section.number('high_freq_factor'),
    context: section.size('original_max_position_embeddings'),
  };
}
