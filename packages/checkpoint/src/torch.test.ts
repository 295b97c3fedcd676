import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { torchArchive, torchFile, type Pickled } from '../test/torch-file';
import { openTorchCheckpoint, type TorchOptions } from './torch';

const reference = (name: string) => fileURLToPath(new URL(`../test/reference/${name}`, import.meta.url));

let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'torch-'))));
afterAll(() => rm(folder, { recursive: true }));

/** Everything in a file. */
async function contentOf(bytes: Uint8Array | string, options?: TorchOptions) {
  const path = typeof bytes === 'string' ? bytes : join(folder, 'model.pt');
  if (typeof bytes !== 'string') await writeFile(path, bytes);
  const checkpoint = await openTorchCheckpoint(path, options);
  try {
    const content: Record<string, unknown> = {};
    for (const name of checkpoint.names) {
      const { data, ...tensor } = await checkpoint.read(name);
      expect(checkpoint.info(name)).toEqual(tensor);
      expect(data.length).toBe(tensor.shape.reduce((a, b) => a * b, 1));
      content[name] = { ...tensor, data: Array.from(data, Number) };
    }
    return content;
  } finally {
    await checkpoint.close();
  }
}

const floats = (...values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
const read = (...values: number[]) => ({ dtype: 'F32', shape: [values.length], data: values });

describe('reads from files that PyTorch wrote', () => {
  // Written by make-torch.py in the same folder, with PyTorch 2.13.0.
  const expected = async () => JSON.parse(await readFile(reference('expected.json'), 'utf8'));

  it('every type, parameters, views of one storage, and the attributes of a state dict', async () => {
    expect(await contentOf(reference('plain.pt'))).toEqual((await expected()).plain);
  });

  it('the state dict among those of optimizer and schedule', async () => {
    expect(await contentOf(reference('training.pt'))).toEqual((await expected()).training);
  });

  it.each(['namespace', 'numpy', 'size'])('the state dict next to values that are not tensors: %s', async (kind) => {
    const { w } = (await contentOf(reference(`extras-${kind}.pt`))) as Record<string, { shape: number[] }>;
    expect(w).toMatchObject({ dtype: 'F32', shape: [2, 3] });
  });

  it('the bytes of one tensor, in the order of its shape', async () => {
    const checkpoint = await openTorchCheckpoint(reference('plain.pt'));
    const { bytes } = await checkpoint.borrow('turned');
    expect([...new Float32Array(bytes.slice().buffer, 0, 6)]).toEqual([0, 6, 12, 18, 1, 7]);
    expect(() => checkpoint.info('other')).toThrow(/plain\.pt: no tensor other\. See names/);
    await checkpoint.close();
  });
});

describe('reads generated files', () => {
  it('with the fields of large archives, and a comment', async () => {
    const file = torchFile({ w: floats(1, 2), b: floats(3) }, { zip64: true });
    expect(await contentOf(file)).toEqual({ w: read(1, 2), b: read(3) });
  });

  it('from the dictionary under the given key, or under the usual ones', async () => {
    const file = torchFile({ ema: { w: floats(1) }, model_state_dict: { w: floats(2) } });
    expect(await contentOf(file)).toEqual({ w: read(2) });
    expect(await contentOf(file, { key: 'ema' })).toEqual({ w: read(1) });
    await expect(contentOf(file, { key: 'best' })).rejects.toThrow(/its entry best must be a dictionary of tensors/);
    await expect(contentOf(torchFile({ model: { w: floats(1) } }))).rejects.toThrow(
      /it holds no tensor, only model\. Set `key` to the key of the dictionary with tensors/,
    );
  });
});

describe('refuses, naming the file and saying why,', () => {
  const tensor: Pickled = {
    tensor: { type: 'FloatStorage', key: '0', length: 4, offset: 0, shape: [2], strides: [1] },
  };
  const withTensor = (change: object): Pickled => ({ w: { tensor: { ...tensor.tensor, ...change } } }) as Pickled;
  const archive = (root: Pickled, files: Record<string, Uint8Array> = { 'data/0': new Uint8Array(16) }) =>
    torchArchive(root, files);
  const pickle = (...bytes: (number | string)[]) =>
    torchArchive(
      new Uint8Array(Buffer.concat(bytes.map((b) => (typeof b === 'string' ? Buffer.from(b) : Buffer.of(b))))),
      {},
    );

  it.each<[string, () => Uint8Array, RegExp]>([
    ['an empty file', () => new Uint8Array(0), /it has no directory at its end/],
    ['another kind of file', () => new Uint8Array(200).fill(7), /it is truncated, or not a zip archive/],
    ['a file of PyTorch before 1.6', () => Uint8Array.of(0x80, 2, 0x8a, 10), /PyTorch before 1\.6.*torch\.save\(/],
    ['a truncated file', () => torchFile({ w: floats(1, 2) }).subarray(0, -30), /no directory at its end/],
    ['a function', () => pickle(0x80, 2, 'cposix\nsystem\n', '.'), /it refers to posix\.system, which is not run here/],
    ['eval', () => pickle(0x80, 2, 'cbuiltins\neval\n', '.'), /builtins\.eval, which is not run/],
    [
      'an unknown type',
      () => pickle(0x80, 2, 'ctorch\nComplexFloatStorage\n', '.'),
      /numbers of torch\.ComplexFloatStorage, expected one of torch\.FloatStorage, /,
    ],
    ['an unknown instruction', () => pickle(0x80, 2, 0x82, '.'), /its instruction 0x82 at byte 2 is not one/],
    ['an object of an unknown class', () => pickle(0x80, 2, 'N)', 0x81, '.'), /an object of an unknown class/],
    ['a subprocess', () => pickle(0x80, 2, 'csubprocess\nPopen\n', ')R.'), /it refers to subprocess\.Popen, which is/],
    [
      'another way to make tensors',
      () => pickle(0x80, 2, 'ctorch._utils\n_rebuild_sparse_tensor\n', '.'),
      /it refers to torch\._utils\._rebuild_sparse_tensor, which is/,
    ],
    [
      'a call of a storage type',
      () => pickle(0x80, 2, 'ctorch\nFloatStorage\n', ')R.'),
      /calls torch\.FloatStorage in a way/,
    ],
    ['another protocol', () => pickle(0x80, 4, '.'), /expected pickle protocol 2, .* got 4/],
    ['no end', () => pickle(0x80, 2, '}'), /it ends at byte 3, in an instruction/],
    ['an empty stack', () => pickle(0x80, 2, '.'), /it uses a value that does not exist/],
    ['a missing MARK', () => pickle(0x80, 2, 'u.'), /a MARK that does not exist/],
    ['a missing memo entry', () => pickle(0x80, 2, 'h', 3, '.'), /a memo entry that does not exist/],
    ['attributes of a list', () => pickle(0x80, 2, ']}b.'), /attributes of something other/],
    ['items of a list', () => pickle(0x80, 2, ']NNs.'), /items of something other/],
    ['an entry of a dictionary', () => pickle(0x80, 2, '}Na.'), /appends to something other/],
    ['a huge number', () => pickle(0x80, 2, 0x8a, 9, '123456789.'), /at most 8 bytes, got 9/],
    ['a list', () => pickle(0x80, 2, '].'), /the file must be a dictionary of tensors/],
    ['a tensor beyond its storage', () => archive(withTensor({ offset: 3 })), /needs 2 values up to index 4, .* has 4/],
    ['strides beyond it', () => archive(withTensor({ strides: [9] })), /up to index 9, but the storage has 4/],
    ['values repeated', () => archive(withTensor({ shape: [2 ** 30], strides: [0] })), /needs 1073741824 values/],
    ['a negative size', () => archive(withTensor({ shape: [-1] })), /defined by storage, offset, shape and strides/],
    ['a missing stride', () => archive(withTensor({ strides: [] })), /a stride for each, got 0/],
    ['17 axes', () => archive(withTensor({ shape: Array(17).fill(1), strides: Array(17).fill(1) })), /at most 16 axes/],
    ['no storage', () => archive(withTensor({ key: '1' })), /it has no file data\/1/],
    [
      'a storage too small',
      () => archive({ w: tensor }, { 'data/0': new Uint8Array(15) }),
      /4 values of F32, but.* 15/,
    ],
    [
      'high bytes first',
      () => archive({ w: tensor }, { 'data/0': new Uint8Array(16), byteorder: Buffer.from('big') }),
      /got byte order big/,
    ],
    [
      'a file twice',
      () => archive({ w: tensor }, { 'data/0': new Uint8Array(16), 'data.pkl': new Uint8Array(1) }),
      /contains archive\/data\.pkl twice/,
    ],
    ['no pickle', () => torchArchive({}, {}, { root: 'a/b' }), /one NAME\/data\.pkl, got 0/],
    ['compression', () => torchFile({ w: floats(1) }, { method: 8 }), /compressed or encrypted/],
  ])('%s', async (_, bytes, message) => {
    const opening = contentOf(bytes());
    await expect(opening).rejects.toThrow(message);
    await expect(opening).rejects.toThrow(/model\.pt is not a readable PyTorch checkpoint: .*\./);
  });

  it('a Git LFS pointer', async () => {
    const pointer = Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n');
    await expect(contentOf(pointer)).rejects.toThrow(/model\.pt is a Git LFS pointer, not the file itself/);
  });

  it('a missing file', async () => {
    await expect(openTorchCheckpoint(join(folder, 'no.pt'))).rejects.toThrow(/no\.pt does not exist .*Check the path/);
  });
});

describe('under random damage', () => {
  const small = torchFile({ w: { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }, b: floats(5) });
  const large = torchFile({ w: floats(1, 2), step: 7 }, { zip64: true });
  const survives = async (bytes: Uint8Array) => {
    try {
      await contentOf(bytes);
    } catch (error) {
      expect((error as Error).constructor).toBe(Error);
      expect((error as Error).message).toMatch(/is not a readable PyTorch checkpoint/);
    }
  };

  it('changed bytes result in a clean error or tensors that fit their shapes', async () => {
    for (const whole of [small, large, new Uint8Array(await readFile(reference('plain.pt')))]) {
      const change = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 }));
      await fc.assert(
        fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (list) => {
          const bytes = whole.slice();
          for (const [at, value] of list) bytes[at] = value;
          await survives(bytes);
        }),
        { numRuns: 100 },
      );
    }
  });

  it('truncated and random bytes too', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(small.length), fc.uint8Array({ maxLength: 64 }), async (cut, tail) => {
        await survives(new Uint8Array([...small.subarray(0, cut), ...tail]));
      }),
      { numRuns: 100 },
    );
  });

  it('any program in a valid archive', async () => {
    const opcode = fc.constantFrom(
      ...Array.from(Buffer.from('(}])tu.sabhqrjNKMJXcQRG\x80\x81\x85\x86\x87\x88\x89\x8a', 'latin1')),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof({ weight: 3, arbitrary: opcode }, fc.nat(255)), { maxLength: 60 }),
        (program) => survives(torchArchive(Uint8Array.of(0x80, 2, ...program), { 'data/0': new Uint8Array(8) })),
      ),
      { numRuns: 300 },
    );
  });
});
