import type { FileHandle } from 'node:fs/promises';
import { decode, type Dtype } from './dtypes';
import { expectFinite } from './finite';
import { parseJson } from './json';
import { nodeModules } from './node';
import {
  fileParts,
  headerEnd,
  lengthBytes,
  parseHeader,
  type Header,
  type StoredTensor,
  type TensorToStore,
  type WriteOptions,
} from './safetensors';

/** Name of a checkpoint's single file, and with `.index.json` of the list of its shards. */
const modelFile = 'model.safetensors';
const indexFile = `${modelFile}.index.json`;
/** Most bytes per read call: Node refuses 2 GiB and more. */
const readChunk = 2 ** 30;

/** A float32 tensor read from or written to a file: the form of a model's state. */
export interface FloatTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** An open checkpoint of one or more files; only the headers are read until tensors are requested. */
export interface OpenCheckpoint {
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Type and shape, from the header. */
  info(name: string): { readonly dtype: Dtype; readonly shape: readonly number[] };
  /** Reads one tensor. */
  read(name: string): Promise<StoredTensor>;
  /**
   * The bytes of one tensor, little-endian as in the file. For a mapped file they are the file's own, without a copy, and must
   * not be used after their `close`. Closing the checkpoint does not close them.
   */
  borrow(name: string): Promise<BorrowedBytes>;
  close(): Promise<void>;
}

/** Bytes that must not be used after `close`. */
export interface BorrowedBytes {
  readonly bytes: Uint8Array;
  close(): void;
}

export interface OpenOptions {
  /** Maps bytes `begin` to `end` of a file into memory; without it, or if it returns undefined, they are read. */
  readonly map?: (path: string, begin: number, end: number) => BorrowedBytes | undefined;
}

/**
 * Opens a `.safetensors` file, a `model.safetensors.index.json`, or a folder with either.
 *
 * @throws Error naming the path if a file is missing, truncated or has an invalid header
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<OpenCheckpoint> {
  const { fs, join, dirname } = nodeModules('openCheckpoint');
  const stat = await fs.stat(path).catch(() => undefined);
  if (!stat) throw missing(path, 'a .safetensors file or a folder with one');
  if (!stat.isDirectory()) {
    return path.endsWith('.json') ? openShards(dirname(path), path, options) : openFiles([path], options);
  }
  const files = await fs.readdir(path);
  if (files.includes(indexFile)) return openShards(path, join(path, indexFile), options);
  if (files.includes(modelFile)) return openFiles([join(path, modelFile)], options);
  const pickle = files.find((file) => /\.bin$/.test(file));
  const instead =
    pickle && `${pickle} next to it is a pickle; save the model again, in transformers with safe_serialization=True`;
  throw missing(join(path, modelFile), `${modelFile} or ${indexFile}`, instead);
}

/** All tensors of a checkpoint as float32, whatever their stored type. @param keep selects tensors by name */
export async function readState(
  path: string,
  keep: (name: string) => boolean = () => true,
): Promise<Record<string, FloatTensor>> {
  const checkpoint = await openCheckpoint(path);
  try {
    const state: [string, FloatTensor][] = [];
    for (const name of checkpoint.names.filter(keep)) {
      const { shape, data } = await checkpoint.read(name);
      state.push([name, { shape, data: data instanceof Float32Array ? data : Float32Array.from(data, Number) }]);
    }
    return Object.fromEntries(state);
  } finally {
    await checkpoint.close();
  }
}

/**
 * Writes one file atomically: a temporary file next to it, then a rename.
 *
 * @throws Error for a NaN or an infinity, naming the tensor, index and value; and when the file cannot be written. Either
 *   way a file that existed before stays unchanged, and no temporary file is left.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, TensorToStore>>,
  options: WriteOptions = {},
): Promise<void> {
  const check = (name: string, { data }: TensorToStore) =>
    expectFinite(`${path}: tensor ${name}`, data, options.floats ?? 'F32', 'The file was not written.');
  await writeAtomically(path, fileParts(tensors, options, check));
}

/**
 * Writes a folder of files of about `maxShardBytes` (a tensor is never split), then their `model.safetensors.index.json`.
 * Each file is written as by `writeSafetensors`.
 */
export async function writeSharded(
  folder: string,
  tensors: Readonly<Record<string, TensorToStore>>,
  { maxShardBytes = 4 * 2 ** 30, ...options }: WriteOptions & { readonly maxShardBytes?: number } = {},
): Promise<void> {
  const { fs, join } = nodeModules('writeSharded');
  await fs.mkdir(folder, { recursive: true });
  const shards = intoShards(tensors, options.floats === 'BF16' ? 2 : 4, maxShardBytes);
  const number = (n: number) => String(n).padStart(5, '0');
  const weightMap: [string, string][] = [];
  for (const [i, names] of shards.entries()) {
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    await writeSafetensors(join(folder, file), Object.fromEntries(names.map((n) => [n, tensors[n]!])), options);
    weightMap.push(...names.map((n): [string, string] => [n, file]));
  }
  const index = { metadata: {}, weight_map: Object.fromEntries(weightMap) };
  await writeAtomically(join(folder, indexFile), [new TextEncoder().encode(JSON.stringify(index, null, 2))]);
}

/**
 * Writes a temporary file, flushes it to the disk and renames it.
 *
 * @throws Error naming the file and what is left, if the system cannot write it (a full disk, a read-only folder)
 */
export async function writeAtomically(path: string, parts: Iterable<Uint8Array>): Promise<void> {
  const { fs, join, dirname, basename } = nodeModules('writeAtomically');
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  try {
    const handle = await fs.open(temporary, 'w');
    try {
      for (const part of parts) await handle.writeFile(part);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.rename(temporary, path);
  } catch (error) {
    await fs.rm(temporary, { force: true }).catch(() => undefined);
    const there = await fs.stat(path).then(
      () => 'The earlier file of this name is unchanged.',
      () => 'No partial file is left.',
    );
    throw systemError(`${path} could not be written`, error, there);
  }
}

const REASONS: Readonly<Record<string, readonly [reason: string, fix: string]>> = {
  ENOSPC: ['the disk is full', 'Free some space, or write to another disk.'],
  EDQUOT: ['the disk quota is used up', 'Free some space, or write to another disk.'],
  EROFS: ['the file system is read-only', 'Write to another folder, or mount it writable.'],
  EACCES: ['permission is denied', 'Write to another folder, or change its permissions.'],
  EPERM: ['permission is denied', 'Write to another folder, or change its permissions.'],
};

/**
 * Explains an error of the system while writing; returns any other error unchanged.
 *
 * @param what what failed
 * @param kept what is lost or kept
 */
export function systemError(what: string, error: unknown, kept: string): unknown {
  const { code = '', message } = error as NodeJS.ErrnoException;
  const known = REASONS[code];
  return known ? new Error(`${what}: ${known[0]} (${message}). ${kept} ${known[1]}`, { cause: error }) : error;
}

interface OpenFile extends Header {
  readonly path: string;
  readonly handle: FileHandle;
}

async function openFile(path: string): Promise<OpenFile> {
  const { fs } = nodeModules('openCheckpoint');
  const handle = await fs.open(path).catch(() => {
    throw missing(path, 'a safetensors file that can be read');
  });
  try {
    const { size } = await handle.stat();
    const end = headerEnd(await readRange(handle, 0, Math.min(size, lengthBytes), path), size, path);
    return { path, handle, ...parseHeader(await readRange(handle, lengthBytes, end, path), size, path) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function openFiles(paths: readonly string[], { map }: OpenOptions): Promise<OpenCheckpoint> {
  const files: OpenFile[] = [];
  const close = async () => void (await Promise.all(files.map(({ handle }) => handle.close())));
  const where = new Map<string, OpenFile>();
  try {
    for (const path of paths) {
      const file = await openFile(path);
      files.push(file);
      for (const name of file.entries.keys()) {
        const other = where.get(name);
        if (other)
          throw new Error(`${path}: tensor ${name} is in ${other.path} too. A tensor must be in only one shard.`);
        where.set(name, file);
      }
    }
  } catch (error) {
    await close();
    throw error;
  }
  const find = (name: string): OpenFile => {
    const file = where.get(name);
    if (!file) throw new Error(`${paths.join(', ')}: no tensor ${name}. See names for its tensors.`);
    return file;
  };
  const borrow = async (name: string): Promise<BorrowedBytes> => {
    const { entries, handle, path } = find(name);
    const { begin, end } = entries.get(name)!;
    const mapped = begin < end ? map?.(path, begin, end) : undefined;
    return mapped ?? { bytes: await readRange(handle, begin, end, path), close: () => undefined };
  };
  return {
    names: [...where.keys()],
    metadata: Object.assign({}, ...files.map((file) => file.metadata)) as Record<string, string>,
    info(name) {
      const { dtype, shape } = find(name).entries.get(name)!;
      return { dtype, shape };
    },
    async read(name) {
      const { entries, path } = find(name);
      const { dtype, shape } = entries.get(name)!;
      const { bytes, close } = await borrow(name);
      try {
        return { dtype, shape, data: decode(bytes, dtype, `${path}: tensor ${name}`) };
      } finally {
        close();
      }
    },
    borrow,
    close,
  };
}

async function openShards(folder: string, index: string, options: OpenOptions): Promise<OpenCheckpoint> {
  const { fs, join, basename } = nodeModules('openCheckpoint');
  const weightMap = parseIndex(await fs.readFile(index), index);
  const files = [...new Set(Object.values(weightMap))];
  const outside = files.find((file) => file !== basename(file) || file === '..' || file.includes('\\'));
  if (outside !== undefined) {
    throw new Error(`${index}: a shard must be a file of the same folder, got ${JSON.stringify(outside)}.`);
  }
  const checkpoint = await openFiles(
    files.map((file) => join(folder, file)),
    options,
  );
  const absent = Object.keys(weightMap).filter((name) => !checkpoint.names.includes(name));
  if (absent.length > 0) {
    await checkpoint.close();
    throw new Error(
      `${index}: ${absent.length} tensors that it lists are in no shard (${absent.slice(0, 5).join(', ')}). ` +
        'Fetch the index and its shards again, all from one version.',
    );
  }
  return checkpoint;
}

function parseIndex(bytes: Uint8Array, path: string): Record<string, string> {
  const index = parseJson(bytes, path) as { weight_map?: unknown } | null;
  const map = index?.weight_map;
  if (typeof map !== 'object' || map === null || Object.values(map).some((file) => typeof file !== 'string')) {
    throw new Error(`${path}: weight_map must map each tensor name to a file name. Fetch or write the file again.`);
  }
  return map as Record<string, string>;
}

function readRange(handle: FileHandle, begin: number, end: number, path: string): Promise<Uint8Array> {
  const cut = (at: number) =>
    new Error(`${path} ends at byte ${at}, expected ${end}: it was truncated while being read. Try again.`);
  return readInto(new Uint8Array(end - begin), handle, begin, cut);
}

/** Fills bytes from a file. @param cut makes the error for a file that ends too early, at the given byte */
export async function readInto(
  bytes: Uint8Array,
  handle: FileHandle,
  begin: number,
  cut: (at: number) => Error,
): Promise<Uint8Array> {
  let at = 0;
  while (at < bytes.length) {
    const { bytesRead } = await handle.read(bytes, at, Math.min(readChunk, bytes.length - at), begin + at);
    if (bytesRead === 0) throw cut(begin + at);
    at += bytesRead;
  }
  return bytes;
}

function intoShards(
  tensors: Readonly<Record<string, TensorToStore>>,
  floatBytes: number,
  maxBytes: number,
): string[][] {
  const shards: string[][] = [];
  let room = 0;
  for (const [name, { data }] of Object.entries(tensors)) {
    const bytes = data instanceof Float32Array ? data.length * floatBytes : data.byteLength;
    if (bytes > room || shards.length === 0) {
      shards.push([]);
      room = maxBytes;
    }
    shards[shards.length - 1]!.push(name);
    room -= bytes;
  }
  return shards;
}

function missing(path: string, expected: string, fix = 'Check the path'): Error {
  return new Error(`${path} does not exist or cannot be read: expected ${expected}. ${fix}.`);
}
