import type { Reference } from '@flamingo-ts/testing';

/**
 * One reference case: a sidecar JSON with or without a safetensors file beside it, or a folder with `golden.json`.
 * `meta` is the JSON, `tensors` and `tensor(name)` the safetensors of the same name, read on first use.
 */
export interface GoldenCase extends Reference {
  /** Given folder and path below it: `flamingo/xattn_immediate`, `lm/chinchilla`. Never decide by it what the case is. */
  readonly name: string;
  /** Absolute folder of the case's files. */
  readonly folder: string;
  /** Another reference of the same folder: `sibling('e2e_forward.safetensors')`, `sibling('config.json')`. */
  sibling(file: string): Reference;
}

/** What running a case gave. */
export interface GoldenResult {
  /** Largest relative error over everything compared; 0 for exact comparisons that hold, Infinity for those that fail. */
  readonly error: number;
  readonly pass: boolean;
  /** What went wrong, or how it was compared, in a few words. */
  readonly note?: string;
}

/** Knows one kind of case. */
export interface GoldenHandler {
  /** Decides by the content of `meta` (and the tensors' names), so that other folders of the same form work. */
  matches(c: GoldenCase): boolean;
  run(c: GoldenCase): Promise<GoldenResult>;
}
