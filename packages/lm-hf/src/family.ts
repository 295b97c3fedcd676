import type { HFConfig } from './hf-config';
import type { TransformerConfig } from './transformer';

/** Where one of our parameters lies in a checkpoint of another name and layout. */
export interface Source {
  /** Name of the module, without what stands before all names and before `.weight`. */
  readonly name: string;
  /** Its matrix is `[in, out]`. */
  readonly transposed?: boolean;
  /** It is one of several of equal size in one tensor. */
  readonly part?: {
    readonly index: number;
    readonly of: number;
    /** How often the parts take turns: each head has its own, or 1 where they follow each other whole. */
    readonly turns: number;
  };
}

/** Our modules: those of the model, and those of a layer. */
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
  /** Before all names but the head's. A file saved from the model without its head lacks it. */
  readonly prefix: string;
  /** Before and after the number of a layer: `h.3.` is `['h.', '.']`. */
  readonly layer: string;
  readonly modules: Readonly<Partial<Record<ModuleName, string | Source>>>;
  /** Names that the untied head had in the course of time. */
  readonly heads: readonly string[];
  /** What older files hold besides parameters: masks and tables. */
  readonly ignored?: RegExp;
}

/** A family of language models: what its config.json and its names mean. */
export interface Family {
  config(json: HFConfig): TransformerConfig;
  names(config: TransformerConfig): Names;
}

/** Query, key and value in one tensor, one after the other, or head by head. */
export function packed(name: string, options: { readonly transposed?: boolean; readonly heads?: number } = {}) {
  const { transposed, heads: turns = 1 } = options;
  const part = (index: number): Source => ({ name, transposed, part: { index, of: 3, turns } });
  return { 'attn.q_proj': part(0), 'attn.k_proj': part(1), 'attn.v_proj': part(2) };
}
