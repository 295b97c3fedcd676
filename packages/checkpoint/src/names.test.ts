import { describe, expect, it } from 'vitest';
import { mapNames, outputsFirst } from './names';

const rows = (...values: number[]) => ({ shape: [values.length, 1], data: Float32Array.from(values) });

describe('mapNames', () => {
  it('renames, drops, converts, splits and joins; the rest stays', () => {
    const state = {
      'h.0.qkv': rows(1, 2, 3, 4, 5, 6),
      'h.0.attn.bias': rows(0),
      'h.0.k': rows(8),
      'h.0.q': rows(7),
      'wte.weight': rows(9, 10),
      other: rows(11),
    };
    const mapped = mapNames(state, [
      { from: /^h\.(\d+)\.qkv$/, split: ['blocks.$1.query', 'blocks.$1.key', 'blocks.$1.value'] },
      { from: /\.attn\.bias$/, drop: true },
      { from: /^h\.(\d+)\.q$/, to: 'joined.$1', part: [0, 2] },
      { from: /^h\.(\d+)\.k$/, to: 'joined.$1', part: [1, 2] },
      { from: /^wte\./, to: 'embedding.', convert: ({ data }) => ({ shape: [1, 2], data }) },
    ]);
    expect(mapped).toEqual({
      'blocks.0.query': rows(1, 2),
      'blocks.0.key': rows(3, 4),
      'blocks.0.value': rows(5, 6),
      'embedding.weight': { shape: [1, 2], data: Float32Array.of(9, 10) },
      other: rows(11),
      'joined.0': rows(7, 8),
    });
  });

  it('applies the first rule that matches', () => {
    const rules = [
      { from: /^a/, to: 'x' },
      { from: /^ab/, to: 'y' },
    ];
    expect(Object.keys(mapNames({ ab: rows(1) }, rules))).toEqual(['xb']);
  });

  it('explains rules that do not work', () => {
    expect(() => mapNames({ a: rows(1), b: rows(2) }, [{ from: /^[ab]$/, to: 'c' }])).toThrow(/a and b both become c/);
    expect(() => mapNames({ a: rows(1, 2, 3) }, [{ from: /^a$/, split: ['b', 'c'] }])).toThrow(
      /a has 3 rows, which cannot be split into 2/,
    );
    expect(() => mapNames({ a: rows(1) }, [{ from: /^a$/, to: 'b', part: [1, 2] }])).toThrow(
      /part 0 of the 2 of b is missing/,
    );
    const wide = { shape: [1, 2], data: Float32Array.of(1, 2) };
    expect(() =>
      mapNames({ a: rows(1), b: wide }, [
        { from: /^a$/, to: 'c', part: [0, 2] },
        { from: /^b$/, to: 'c', part: [1, 2] },
      ]),
    ).toThrow(/\[1, 1\] and \[1, 2\] do not/);
  });
});

describe('outputsFirst', () => {
  it('transposes matrices and kernels', () => {
    const matrix = { shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) };
    expect(outputsFirst(matrix)).toEqual({ shape: [3, 2], data: Float32Array.of(1, 4, 2, 5, 3, 6) });
    const kernel = { shape: [1, 2, 2, 1], data: Float32Array.of(1, 2, 3, 4) }; // [h, w, in, out]
    expect(outputsFirst(kernel)).toEqual({ shape: [1, 2, 1, 2], data: Float32Array.of(1, 3, 2, 4) });
  });
});
