import { relativeError, type Values } from '@flamingo-ts/testing';
import type { GoldenResult } from './case';

/** Collects how far tensors are from their references, each against its own tolerance. */
export class Comparison {
  private error = 0;
  private worst = '';
  private readonly failed: string[] = [];

  /** Norm of the difference over norm of the expected. */
  close(name: string, actual: Values, expected: Values, tolerance: number): void {
    this.note(name, relativeError(actual, expected), tolerance);
  }

  /** For what must be equal and not only close. */
  same(name: string, actual: Values, expected: Values): void {
    this.note(name, relativeError(actual, expected) === 0 ? 0 : Infinity, 0);
  }

  /** An error measured elsewhere. */
  note(name: string, error: number, tolerance: number): void {
    if (!(error <= this.error)) [this.error, this.worst] = [error, name];
    if (!(error <= tolerance)) this.failed.push(`${name} ${error.toExponential(1)}`);
  }

  result(): GoldenResult {
    const pass = this.failed.length === 0;
    const note = pass ? this.worst && `worst ${this.worst}` : this.failed.slice(0, 3).join('; ');
    return { error: this.error, pass, ...(note && { note }) };
  }
}
