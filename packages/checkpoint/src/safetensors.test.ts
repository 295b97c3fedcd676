import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from './files';
import { parseSafetensors, serializeSafetensors } from './safetensors';

/** A file with any header and data, as an attacker would make it. */
function file(header: unknown, dataBytes = 0, announced?: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(announced ?? json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const tensor = (dtype: string, shape: unknown, ...data_offsets: number[]) => ({ dtype, shape, data_offsets });

describe('writing and reading', () => {
  it('preserves every type, shape and metadata', () => {
    const tensors = {
      bytes: { shape: [3], data: Uint8Array.of(1, 2, 255) },
      scalar: { shape: [], data: Float32Array.of(-0.5) },
      matrix: { shape: [2, 3], data: Float32Array.of(1, NaN, Infinity, -0, 1e-40, 3.4e38) },
      empty: { shape: [0, 4], data: new Float32Array(0) },
      ids: { shape: [2], data: Int32Array.of(-1, 2 ** 31 - 1) },
      wide: { shape: [1], data: BigInt64Array.of(-(2n ** 63n)) },
    };
    const bytes = serializeSafetensors(tensors, { metadata: { format: 'pt', 'an "odd" name': 'ä' } });
    const read = parseSafetensors(bytes);
    expect(read.metadata).toEqual({ format: 'pt', 'an "odd" name': 'ä' });
    expect(
      Object.fromEntries(Object.entries(read.tensors).map(([n, { shape, data }]) => [n, { shape, data }])),
    ).toEqual(tensors);
    expect(Object.entries(read.tensors).map(([n, { dtype }]) => `${n} ${dtype}`)).toEqual([
      'wide I64',
      'scalar F32',
      'matrix F32',
      'empty F32',
      'ids I32',
      'bytes U8',
    ]);
    expect(new DataView(bytes.buffer).getUint32(0, true) % 8).toBe(0);
  });

  it('preserves any float32 tensors under any names', () => {
    const anyTensor = fc
      .float32Array({ maxLength: 12 })
      .map((data) => ({ dtype: 'F32' as const, shape: [data.length], data }));
    const anyName = fc.oneof(fc.string(), fc.constantFrom('\u00e4', '\u{1f9a9}.weight', '"\\', '\0', '0'));
    const anyTensors = fc.dictionary(anyName, anyTensor, { maxKeys: 6 });
    fc.assert(
      fc.property(anyTensors, (tensors) => {
        fc.pre(!Object.keys(tensors).includes('__metadata__'));
        const read = parseSafetensors(serializeSafetensors(tensors)).tensors;
        expect(Object.entries(read).sort()).toEqual(Object.entries(tensors).sort());
      }),
      { numRuns: 50 },
    );
  });

  it('treats __proto__ like any other name', () => {
    const tensors = JSON.parse('{"__proto__": 0}') as Record<string, never>;
    Object.defineProperty(tensors, '__proto__', { value: { shape: [1], data: Float32Array.of(7) } });
    const read = parseSafetensors(serializeSafetensors(tensors)).tensors;
    expect(Object.getOwnPropertyNames(read)).toEqual(['__proto__']);
    expect(Object.getPrototypeOf(read)).toBe(Object.prototype);
  });

  it('refuses what cannot be written', () => {
    expect(() => serializeSafetensors({ a: { shape: [3], data: new Float32Array(2) } })).toThrow(
      /a of shape \[3\] must have 3 values, got 2/,
    );
    expect(() => serializeSafetensors({ __metadata__: { shape: [], data: new Float32Array(1) } })).toThrow(/Rename it/);
  });
});

it('names a Git LFS pointer', () => {
  const pointer = new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n');
  expect(() => parseSafetensors(pointer, 'model.safetensors')).toThrow(
    /^model\.safetensors is a Git LFS pointer, not the file itself\. Run "git lfs pull"/,
  );
});

it('reads F64 as float32, and rejects an unsupported type only when its tensor is read', async () => {
  const bytes = file({ f: tensor('F64', [2], 0, 16), x: tensor('F8_E4M3', [3], 16, 19) }, 19);
  new DataView(bytes.buffer, bytes.length - 19).setFloat64(8, 0.1, true);
  expect(() => parseSafetensors(bytes, 'm')).toThrow(
    /m: tensor "x" has values of type F8_E4M3, which cannot be read\. Save/,
  );
  const folder = await mkdtemp(join(tmpdir(), 'dtypes-'));
  await writeFile(join(folder, 'model.safetensors'), bytes);
  const checkpoint = await openCheckpoint(folder);
  expect(checkpoint.info('f')).toEqual({ dtype: 'F64', shape: [2] });
  expect((await checkpoint.read('f')).data).toEqual(Float32Array.of(0, 0.1));
  await expect(checkpoint.read('x')).rejects.toThrow(/model\.safetensors: tensor x has values of type F8_E4M3/);
  await checkpoint.close();
  await rm(folder, { recursive: true });
});

describe('16-bit floats', () => {
  const read = (dtype: string, words: number[]) => {
    const bytes = file({ x: tensor(dtype, [words.length], 0, 2 * words.length) }, 2 * words.length);
    const view = new DataView(bytes.buffer, bytes.length - 2 * words.length);
    words.forEach((word, i) => view.setUint16(2 * i, word, true));
    return [...(parseSafetensors(bytes).tensors['x']!.data as Float32Array)];
  };

  it('F16: normal, subnormal, zeros, infinities and NaN', () => {
    expect(
      read('F16', [0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0000, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0x3555]),
    ).toEqual([1, -2, 65504, 2 ** -24, 1023 * 2 ** -24, 0, -0, Infinity, -Infinity, NaN, 0.333251953125]);
  });

  it('BF16 is the upper half of a float32', () => {
    expect(read('BF16', [0x3f80, 0xc040, 0x7f80, 0x7fc0, 0x8000])).toEqual([1, -3, Infinity, NaN, -0]);
  });

  it('BF16 is rounded to the nearest, ties to even', () => {
    const values = [1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -1e-3, 3.4e38, Infinity, NaN, 0];
    const stored = serializeSafetensors({ x: { shape: [9], data: Float32Array.from(values) } }, { floats: 'BF16' });
    const { dtype, data } = parseSafetensors(stored).tensors['x']!;
    expect(dtype).toBe('BF16');
    expect([...(data as Float32Array)]).toEqual([
      1,
      1,
      1 + 2 ** -6,
      1 + 2 ** -7,
      -0.00099945068359375,
      Infinity,
      Infinity,
      NaN,
      0,
    ]);
  });

  it('a NaN whose fraction bits are all in the lower half stays NaN', () => {
    const data = new Float32Array(Uint32Array.of(0x7f800001).buffer);
    const { x } = parseSafetensors(serializeSafetensors({ x: { shape: [1], data } }, { floats: 'BF16' })).tensors;
    expect(x!.data[0]).toBeNaN();
  });
});

describe('refuses, saying why,', () => {
  it.each<[string, Uint8Array, RegExp]>([
    ['an empty file', new Uint8Array(0), /expected a header length of 8 bytes, the file has 0/],
    ['a length beyond the file', file('{}', 0, 3), /expected a header of 3 bytes, the file has only 2/],
    ['an absurd length', file('{}', 0, 2 ** 52), /at most 100000000 bytes, got a length of 4503599/],
    ['a header that is not JSON', file('{"a"'), /is not valid JSON/],
    [
      'a header that is not UTF-8',
      file('{"\u00e4"}').subarray(0, 12).fill(0xff, 10),
      /expected a header|not valid JSON/,
    ],
    ['a list', file('[]'), /must be a JSON object/],
    ['a number for a tensor', file({ a: 1 }), /tensor "a" must be an object/],
    ['an unknown type', file({ a: tensor('F8', [1], 0, 1) }, 1), /dtype "F8", expected one of F32, /],
    ['a type named like a method', file({ a: tensor('toString', [1], 0, 1) }, 1), /dtype "toString"/],
    ['a negative size', file({ a: tensor('U8', [-1], 0, 1) }, 1), /shape .* got \[-1\]/],
    ['a fraction', file({ a: tensor('U8', [0.5, 2], 0, 1) }, 1), /shape .* got \[0.5,2\]/],
    ['no shape', file({ a: tensor('U8', undefined, 0, 1) }, 1), /shape .* got nothing/],
    ['too many axes', file({ a: tensor('U8', Array(17).fill(1), 0, 1) }, 1), /at most 16 whole numbers/],
    [
      'an absurd size',
      file({ a: tensor('F32', [2 ** 52, 2 ** 52], 0, 4) }, 4),
      /needs 8.1\d*e\+31 bytes, but its offsets span 4/,
    ],
    ['a size that overflows to 0', file({ a: tensor('U8', [2 ** 32, 2 ** 32], 0, 0) }), /needs 184\d+ bytes/],
    ['a shape that does not fit', file({ a: tensor('F32', [2], 0, 4) }, 4), /needs 8 bytes, but its offsets span 4/],
    ['offsets backwards', file({ a: tensor('U8', [1], 1, 0) }, 1), /data_offsets \[begin, end\], got \[1,0\]/],
    ['one offset', file({ a: tensor('U8', [1], 0) }, 1), /data_offsets/],
    ['an offset beyond the file', file({ a: tensor('U8', [9], 0, 9) }, 8), /it is truncated or its header is wrong/],
    [
      'overlapping tensors',
      file({ a: tensor('U8', [4], 0, 4), b: tensor('U8', [4], 2, 6) }, 6),
      /"b" overlaps another one/,
    ],
    ['a hole', file({ a: tensor('U8', [1], 0, 1), b: tensor('U8', [1], 2, 3) }, 3), /belong to no tensor/],
    ['bytes left over', file({ a: tensor('U8', [1], 0, 1) }, 2), /belong to no tensor/],
    ['metadata of numbers', file({ __metadata__: { a: 1 } }), /__metadata__ must map names to strings/],
    ['a name twice', file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{}}`, 1), /"a" occurs twice/],
    [
      'a shape twice',
      file(`{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}`, 1),
      /"shape" occurs twice/,
    ],
  ])('%s', (_, bytes, message) => {
    expect(() => parseSafetensors(bytes, 'weights.safetensors')).toThrow(message);
    expect(() => parseSafetensors(bytes, 'weights.safetensors')).toThrow(/^weights\.safetensors is not a valid.*Fetch/);
  });
});

describe('under random damage', () => {
  const whole = serializeSafetensors(
    { w: { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }, ids: { shape: [3], data: Int32Array.of(1, 2, 3) } },
    { metadata: { seed: '1' } },
  );
  const survives = (bytes: Uint8Array) => {
    try {
      for (const { shape, data } of Object.values(parseSafetensors(bytes).tensors)) {
        expect(data.length).toBe(shape.reduce((a, b) => a * b, 1));
      }
    } catch (error) {
      expect((error as Error).constructor).toBe(Error);
      expect((error as Error).message).toMatch(/is not a valid safetensors file/);
    }
  };

  it('changed bytes result in a clean error or tensors that fit their shapes', () => {
    const changes = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1 });
    fc.assert(
      fc.property(changes, (list) => {
        const bytes = whole.slice();
        for (const [at, value] of list) bytes[at] = value;
        survives(bytes);
      }),
      { numRuns: 1000 },
    );
  });

  it('truncated, repeated and random bytes too', () => {
    fc.assert(
      fc.property(fc.nat(whole.length), fc.uint8Array({ maxLength: 64 }), (cut, tail) => {
        survives(new Uint8Array([...whole.subarray(0, cut), ...tail]));
        survives(tail);
      }),
      { numRuns: 400 },
    );
  });

  it('any JSON as header', () => {
    const entry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom('F32', 'U8', 'BF16'), fc.jsonValue()),
        shape: fc.oneof(fc.array(fc.integer({ min: -2, max: 9 })), fc.jsonValue()),
        data_offsets: fc.oneof(fc.array(fc.integer({ min: -2, max: 40 })), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), entry)), fc.nat(40), (header, size) =>
        survives(file(header, size)),
      ),
      { numRuns: 600 },
    );
  });
});
