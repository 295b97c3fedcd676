import { describe, expect, it } from 'vitest';
import { expectShape } from './shape';

describe('expectShape', () => {
  it('accepts any size for a named axis and only the exact size for a number', () => {
    expectShape('f: x', { shape: [2, 9, 4] }, ['batch', 'text', 4], '');
    expectShape('f: x', { shape: [] }, [], '');
  });

  it.each([[[2, 9, 5]], [[2, 4]], [[2, 9, 4, 1]]])('rejects %j', (shape) => {
    expect(() => expectShape('f: x', { shape }, ['batch', 'text', 4], 'Reshape it.')).toThrow(
      `f: x must be [batch, text, 4], got [${shape.join(', ')}]. Reshape it.`,
    );
  });
});
