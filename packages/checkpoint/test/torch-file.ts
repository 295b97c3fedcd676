import { crc32 } from 'node:zlib';

/** Content of a pickled state dict; an object with the key `tensor` is a view of a storage. */
export type Pickled = number | { readonly [key: string]: Pickled } | TorchView;

/** A tensor as PyTorch describes it. */
export interface TorchView {
  readonly tensor: {
    readonly type: string;
    readonly key: string;
    readonly length: number;
    readonly offset: number;
    readonly shape: readonly number[];
    readonly strides: readonly number[];
  };
}

interface Floats {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** A state dict, or dictionaries of such. */
export type TorchState = { readonly [key: string]: Floats | number | TorchState };

export interface ZipOptions {
  /** The folder in the archive: for PyTorch the file's name without `.pt`. */
  readonly root?: string;
  /** Whether sizes and positions are in the 64-bit fields, as in files of 4 GiB and more. */
  readonly zip64?: boolean;
  /** 0: stored as it is. */
  readonly method?: number;
}

/** A `.pt` file as PyTorch 1.6 to 2.x writes it: a zip archive of a pickle (protocol 2) and one file for each storage. */
export function torchFile(state: TorchState, options: ZipOptions = {}): Uint8Array {
  const files: Record<string, Uint8Array> = {};
  const described = (node: TorchState): Pickled =>
    Object.fromEntries(
      Object.entries(node).map(([name, value]) => {
        if (typeof value === 'number') return [name, value];
        if (!(value.data instanceof Float32Array)) return [name, described(value as TorchState)];
        const { shape, data } = value as Floats;
        const key = String(Object.keys(files).length);
        files[`data/${key}`] = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
        return [name, { tensor: { type: 'FloatStorage', key, length: data.length, offset: 0, shape, strides } }];
      }),
    );
  return torchArchive(described(state), files, options);
}

/** The same from a pickle's content, or its bytes, and the other files of the archive. */
export function torchArchive(
  root: Pickled | Uint8Array,
  files: Readonly<Record<string, Uint8Array>>,
  options: ZipOptions = {},
): Uint8Array {
  const folder = options.root ?? 'archive';
  const pickle = root instanceof Uint8Array ? root : pickled(root);
  const all: [string, Uint8Array][] = [['data.pkl', pickle], ...Object.entries(files), ['version', Buffer.from('3\n')]];
  return zipped(
    all.map(([name, content]) => [`${folder}/${name}`, content] as const),
    options,
  );
}

// --- Pickle ---

function pickled(root: Pickled): Uint8Array {
  let memo = 0;
  const put = () => [0x71, memo++ % 256]; // BINPUT; the memo is never read
  const uint32 = (n: number) => [n, n >>> 8, n >>> 16, n >>> 24].map((byte) => byte & 255);
  const int = (n: number): number[] => {
    if (n >= 0 && n < 256) return [0x4b, n];
    if (Math.abs(n) < 2 ** 31) return [0x4a, ...uint32(n)];
    const bytes = new Uint8Array(new BigInt64Array([BigInt(n)]).buffer);
    return [0x8a, 8, ...bytes];
  };
  const text = (s: string) => {
    const bytes = Buffer.from(s);
    return [0x58, ...uint32(bytes.length), ...bytes, ...put()];
  };
  const global = (module: string, name: string) => [...Buffer.from(`c${module}\n${name}\n`), ...put()];
  const tuple = (items: readonly number[]) => {
    if (items.length === 0) return [0x29];
    const inside = items.flatMap(int);
    return items.length <= 3 ? [...inside, 0x84 + items.length, ...put()] : [0x28, ...inside, 0x74, ...put()];
  };
  const orderedDict = () => [...global('collections', 'OrderedDict'), 0x29, 0x52, ...put()];
  const value = (node: Pickled): number[] => {
    if (typeof node === 'number') return int(node);
    if ('tensor' in node && typeof node.tensor === 'object' && 'strides' in node.tensor) {
      const { type, key, length, offset, shape, strides } = node.tensor as TorchView['tensor'];
      const storage = [
        0x28,
        ...text('storage'),
        ...global('torch', type),
        ...text(key),
        ...text('cpu'),
        ...int(length),
      ];
      const args = [...storage, 0x74, ...put(), 0x51, ...int(offset), ...tuple(shape), ...tuple(strides), 0x89];
      return [
        ...global('torch._utils', '_rebuild_tensor_v2'),
        0x28,
        ...args,
        ...orderedDict(),
        0x74,
        ...put(),
        0x52,
        ...put(),
      ];
    }
    const items = Object.entries(node).flatMap(([key, inner]) => [...text(key), ...value(inner as Pickled)]);
    return [...orderedDict(), 0x28, ...items, 0x75];
  };
  return Uint8Array.from([0x80, 2, ...value(root), 0x2e]);
}

// --- Zip ---

function record(bytes: number, fields: readonly (readonly [at: number, size: 2 | 4 | 8, value: number])[]): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (const [at, size, value] of fields) {
    if (size === 8) buffer.writeBigUInt64LE(BigInt(value), at);
    else buffer.writeUIntLE(value, at, size);
  }
  return buffer;
}

function zipped(
  files: readonly (readonly [string, Uint8Array])[],
  { zip64 = false, method = 0 }: ZipOptions,
): Uint8Array {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  const write = (...more: Buffer[]) => {
    parts.push(...more);
    for (const part of more) at += part.length;
  };
  for (const [name, content] of files) {
    const path = Buffer.from(name);
    // PyTorch fills the local header's extra field so that contents begin at multiples of 64.
    const pad = Buffer.alloc(4 + ((128 - ((at + 34 + path.length) % 64)) % 64));
    pad.writeUInt16LE(0x4246, 0);
    pad.writeUInt16LE(pad.length - 4, 2);
    const header = at;
    const shared = (from: number): [number, 2 | 4, number][] => [
      [from, 2, method],
      [from + 6, 4, crc32(content)],
      [from + 10, 4, zip64 ? 0xffffffff : content.length],
      [from + 14, 4, zip64 ? 0xffffffff : content.length],
      [from + 18, 2, path.length],
    ];
    write(record(30, [[0, 4, 0x04034b50], ...shared(8), [28, 2, pad.length]]), path, pad, Buffer.from(content));
    const wide = record(28, [[0, 2, 1], [2, 2, 24], [4, 8, content.length], [12, 8, content.length], [20, 8, header]]); // prettier-ignore
    const extra = zip64 ? wide : Buffer.alloc(0);
    const entry = record(46, [[0, 4, 0x02014b50], ...shared(10), [30, 2, extra.length], [42, 4, zip64 ? 0xffffffff : header]]); // prettier-ignore
    directory.push(entry, path, extra);
  }
  const begin = at;
  write(...directory);
  const size = at - begin;
  if (zip64) {
    const end = at;
    write(record(56, [[0, 4, 0x06064b50], [4, 8, 44], [24, 8, files.length], [32, 8, files.length], [40, 8, size], [48, 8, begin]])); // prettier-ignore
    write(record(20, [[0, 4, 0x07064b50], [8, 8, end], [16, 4, 1]])); // prettier-ignore
  }
  const comment = Buffer.from(zip64 ? 'a comment' : '');
  const [count, bytes, place] = zip64 ? [0xffff, 0xffffffff, 0xffffffff] : [files.length, size, begin];
  write(record(22, [[0, 4, 0x06054b50], [8, 2, count], [10, 2, count], [12, 4, bytes], [16, 4, place], [20, 2, comment.length]]), comment); // prettier-ignore
  return new Uint8Array(Buffer.concat(parts));
}
