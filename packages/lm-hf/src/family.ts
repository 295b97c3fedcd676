import type { HFConfig } from './hf-config';
import type { TransformerConfig } from './transformer';

/** Where a parameter is stored in a checkpoint. */
export interface Source {
  /** Name of the module, without the prefix of all names and without `.weight`. */
  readonly name: string;
  /** Whether its matrix is stored as `[in, out]`. */
  readonly transposed?: boolean;
  /** Set if it is one of several parts of equal size in one tensor. */
  readonly part?: {
    readonly index: number;
    readonly of: number;
    /** How often the parts alternate: once per head, or 1 if each part is contiguous. */
    readonly turns: number;
  };
}

/** Modules of the model and of a layer. */
export type ModuleName =
  | 'embed'
  | 'embed_proj'
  | 'positions'
  | 'final_norm'
  | 'head_proj'
  | 'attn_norm'
  | 'attn.q_proj'
  | 'attn.k_proj'
  | 'attn.v_proj'
  | 'attn.q_norm'
  | 'attn.k_norm'
  | 'attn.o_proj'
  | 'ffn_norm'
  | 'ffn.gate'
  | 'ffn.up'
  | 'ffn.down';

/** How a family names its parameters. */
export interface Names {
  /** Prefix of all names except the head's. Files saved from a model without its head do not have it. */
  readonly prefix: string;
  /** Prefix of a layer's number: `h.` for `h.3.`. */
  readonly layer: string;
  readonly modules: Readonly<Partial<Record<ModuleName, string | Source>>>;
  /** Names of the untied head in different versions. */
  readonly heads: readonly string[];
  /** Names in older files that are not parameters: masks and tables. */
  readonly ignored?: RegExp;
}

/** A family of language models: the meaning of its config.json and of its parameter names. */
export interface Family {
  config(json: HFConfig): TransformerConfig;
  names(config: TransformerConfig): Names;
}

/** Query, key and value in one tensor, one after another or head by head. */
export function packed(name: string, options: { readonly transposed?: boolean; readonly heads?: number } = {}) {
  const { transposed, heads: turns = 1 } = options;
  const part = (index: number): Source => ({ name, transposed, part: { index, of: 3, turns } });
  return { 'attn.q_proj': part(0), 'attn.k_proj': part(1), 'attn.v_proj': part(2) };
}
