import type { Reference } from '@flamingo-ts/testing';

/**
 * One reference case: a JSON file, a JSON file with a safetensors file of the same name, or a folder with `golden.json`.
 * `meta` is the JSON; `tensors` and `tensor(name)` come from the safetensors file, read on first use.
 */
export interface GoldenCase extends Reference {
  /** Path relative to the parent of the given folder: `flamingo/xattn_immediate`, `lm/chinchilla`. Do not use it to identify the kind of case. */
  readonly name: string;
  /** Absolute folder of the case's files. */
  readonly folder: string;
  /** Another reference in the same folder: `sibling('e2e_forward.safetensors')`, `sibling('config.json')`. */
  sibling(file: string): Reference;
}

/** Result of running a case. */
export interface GoldenResult {
  /** Largest relative error of all comparisons; for exact comparisons 0 if equal, otherwise Infinity. */
  readonly error: number;
  readonly pass: boolean;
  /** What failed, or what was compared, in a few words. */
  readonly note?: string;
}

/** Runs one kind of case. */
export interface GoldenHandler {
  /** Identifies the kind by the content of `meta` and the names of the tensors, so that other folders of the same form work. */
  matches(c: GoldenCase): boolean;
  run(c: GoldenCase): Promise<GoldenResult>;
}
