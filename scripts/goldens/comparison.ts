import { relativeError, type Reference, type Values } from '@flamingo-ts/testing';
import type { GoldenResult } from './case';

/** Largest relative errors allowed. A float64 run of a reference is within a third of them. */
export const OUTPUT = 1e-5;
export const GRADIENT = 1e-4;

/** Collects the errors of values against their references, each with its own tolerance. */
export class Comparison {
  private compared = 0;
  private error = 0;
  private worst = '';
  private readonly failed: string[] = [];

  /** Compares the norm of the difference over the norm of the expected values; with tolerance 0 for exact equality. */
  close(name: string, actual: Values, expected: Values, tolerance: number): void {
    this.note(name, relativeError(actual, expected), tolerance);
  }

  /** Like `close`, with the tensor of this name in a reference. */
  stored(reference: Reference, name: string, actual: Values, tolerance: number): void {
    this.close(name, actual, reference.tensors[name]!, tolerance);
  }

  /** Requires plain values to be equal. */
  same(name: string, actual: unknown, expected: unknown): void {
    const [got, want] = [JSON.stringify(actual), JSON.stringify(expected)];
    this.note(name, got === want ? 0 : Infinity, 0, `got ${got}, expected ${want}`);
  }

  /** Records an error measured elsewhere, and the message if it is too large. */
  note(name: string, error: number, tolerance: number, failure = error.toExponential(1)): void {
    this.compared++;
    if (!(error <= this.error)) [this.error, this.worst] = [error, name];
    if (!(error <= tolerance)) this.failed.push(`${name}: ${failure}`);
  }

  result(): GoldenResult {
    const pass = this.compared > 0 && this.failed.length === 0;
    const passed = this.worst ? `worst ${this.worst}` : `${this.compared} values equal`;
    const failed = this.failed.slice(0, 3).join('; ') || 'nothing was compared';
    return { error: this.error, pass, note: pass ? passed : failed };
  }
}
