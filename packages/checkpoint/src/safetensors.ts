import { expectNoLfsPointer } from './json';
import { decode, dtypeBytes, dtypeOf, encode, type Dtype, type FloatDtype, type TensorData } from './dtypes';

/** A tensor of a safetensors file; `data` has floats of every width as float32. */
export interface StoredTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/** A tensor to be written: float32, int32, int64, int8 or bytes. */
export interface TensorToStore {
  readonly shape: readonly number[];
  readonly data: TensorData;
}

export interface WriteOptions {
  /** Free-form strings for the file's header. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** How float32 values are stored. BF16 takes half the space and keeps three significant digits. Defaults to F32. */
  readonly floats?: FloatDtype;
}

/** Tensors by name and the file's free-form string metadata. */
export interface Safetensors {
  readonly tensors: Record<string, StoredTensor>;
  readonly metadata: Record<string, string>;
}

/** Position of a tensor; `begin` and `end` count from the start of the file. */
export interface TensorEntry {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A checked header. */
export interface Header {
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Record<string, string>;
}

/** Longest header that is read. */
const maxHeaderBytes = 100_000_000;
const maxRank = 16;
/** Bytes that hold the header's length, before the header. */
export const lengthBytes = 8;

/** Reads a whole file from memory. @param what the file, for error messages */
export function parseSafetensors(bytes: Uint8Array, what = 'safetensors'): Safetensors {
  const end = headerEnd(bytes, bytes.length, what);
  const { entries, metadata } = parseHeader(bytes.subarray(lengthBytes, end), bytes.length, what);
  const tensors = Object.fromEntries(
    [...entries].map(([name, { dtype, shape, begin, end }]) => [
      name,
      { dtype, shape, data: decode(bytes.subarray(begin, end), dtype, `${what}: tensor ${show(name)}`) },
    ]),
  );
  return { tensors, metadata };
}

/** Where the header ends, from the first eight bytes. @throws Error for an impossible length */
export function headerEnd(start: Uint8Array, fileBytes: number, what: string): number {
  if (fileBytes < lengthBytes) {
    throw bad(what, `expected a header length of ${lengthBytes} bytes, the file has ${fileBytes}`);
  }
  expectNoLfsPointer(start, what);
  const view = new DataView(start.buffer, start.byteOffset, lengthBytes);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > maxHeaderBytes) {
    throw bad(what, `expected a header of at most ${maxHeaderBytes} bytes, got a length of ${length}`);
  }
  if (lengthBytes + length > fileBytes) {
    throw bad(what, `expected a header of ${length} bytes, the file has only ${fileBytes - lengthBytes}`);
  }
  return lengthBytes + length;
}

/** Reads and checks the header's JSON: every byte of the data must belong to exactly one tensor. */
export function parseHeader(json: Uint8Array, fileBytes: number, what: string): Header {
  const root = parseJson(json, what);
  const dataStart = lengthBytes + json.length;
  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = checkMetadata(value, what);
    else entries.set(name, checkEntry(name, value, dataStart, fileBytes, what));
  }
  checkCoverage(entries, dataStart, fileBytes, what);
  return { entries, metadata };
}

/** One safetensors file in memory. */
export function serializeSafetensors(
  tensors: Readonly<Record<string, TensorToStore>>,
  options: WriteOptions = {},
): Uint8Array {
  const parts = [...fileParts(tensors, options)];
  const bytes = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/**
 * The bytes of a file in parts: the header, then each tensor, converted only when requested.
 *
 * @param check called with each tensor before it is converted
 */
export function* fileParts(
  tensors: Readonly<Record<string, TensorToStore>>,
  { metadata = {}, floats = 'F32' }: WriteOptions,
  check?: (name: string, tensor: TensorToStore) => void,
): Generator<Uint8Array> {
  const bytesOf = (name: string): number => dtypeBytes[dtypeOf(tensors[name]!.data, floats)];
  // Wide elements first, so that every tensor starts aligned for readers that map the file.
  const order = Object.keys(tensors).sort((a, b) => bytesOf(b) - bytesOf(a));
  const entries: [string, unknown][] = Object.keys(metadata).length ? [['__metadata__', metadata]] : [];
  let at = 0;
  for (const name of order) {
    const tensor = tensors[name]!;
    const begin = at;
    at += expectSize(name, tensor) * bytesOf(name);
    entries.push([name, { dtype: dtypeOf(tensor.data, floats), shape: tensor.shape, data_offsets: [begin, at] }]);
  }
  yield headerBytes(Object.fromEntries(entries));
  for (const name of order) {
    const tensor = tensors[name]!;
    check?.(name, tensor);
    yield encode(tensor.data, floats);
  }
}

/** The header's length and the header, padded with spaces so that the data starts aligned. */
function headerBytes(header: object): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > maxHeaderBytes) {
    throw new Error(
      `safetensors: the header must have at most ${maxHeaderBytes} bytes, got ${padded}. Write fewer tensors per file.`,
    );
  }
  const bytes = new Uint8Array(lengthBytes + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, lengthBytes);
  return bytes;
}

function expectSize(name: string, tensor: TensorToStore): number {
  const size = tensor.shape.reduce((a, b) => a * b, 1);
  if (name === '__metadata__') {
    throw new Error(
      'safetensors: a tensor cannot be called __metadata__, because the format reserves that name. Rename it.',
    );
  }
  if (size !== tensor.data.length) {
    throw new Error(
      `safetensors: ${name} of shape [${tensor.shape.join(', ')}] must have ${size} values, got ${tensor.data.length}. ` +
        'Pass the shape that belongs to the data.',
    );
  }
  return size;
}

function parseJson(bytes: Uint8Array, what: string): Record<string, unknown> {
  let text: string;
  let root: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    root = JSON.parse(text);
  } catch (cause) {
    throw bad(what, `its header is not valid JSON (${(cause as Error).message.slice(0, 120)})`);
  }
  if (!isObject(root)) throw bad(what, 'its header must be a JSON object');
  const twice = duplicateKey(text);
  if (twice !== undefined) throw bad(what, `the name ${show(twice)} occurs twice in its header`);
  return root;
}

/** The first key that occurs twice in one object of a valid JSON text; `JSON.parse` would silently keep the last. */
function duplicateKey(json: string): string | undefined {
  const objects: Set<string>[] = [];
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === '{') objects.push(new Set());
    else if (c === '}') objects.pop();
    else if (c === '"') {
      const start = i++;
      while (json[i] !== '"') i += json[i] === '\\' ? 2 : 1;
      let next = i + 1;
      while (json[next] === ' ' || json[next] === '\n' || json[next] === '\t' || json[next] === '\r') next++;
      if (json[next] !== ':') continue;
      const key = JSON.parse(json.slice(start, i + 1)) as string;
      const keys = objects[objects.length - 1]!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function checkMetadata(value: unknown, what: string): Record<string, string> {
  if (!isObject(value) || Object.values(value).some((v) => typeof v !== 'string')) {
    throw bad(what, '__metadata__ must map names to strings');
  }
  return value as Record<string, string>;
}

function checkEntry(name: string, value: unknown, dataStart: number, fileBytes: number, what: string): TensorEntry {
  const tensor = `tensor ${show(name)}`;
  if (!isObject(value)) throw bad(what, `${tensor} must be an object with dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !Object.hasOwn(dtypeBytes, dtype)) {
    const known = Object.keys(dtypeBytes).join(', ');
    throw bad(what, `${tensor} has dtype ${show(dtype)}, expected one of ${known}`);
  }
  if (!isCounts(shape) || shape.length > maxRank) {
    throw bad(what, `${tensor} must have a shape of at most ${maxRank} whole numbers, got ${show(shape)}`);
  }
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw bad(what, `${tensor} must have data_offsets [begin, end], got ${show(offsets)}`);
  }
  const [begin, end] = [dataStart + offsets[0]!, dataStart + offsets[1]!];
  if (end > fileBytes) {
    throw bad(what, `${tensor} ends at byte ${end}, the file has ${fileBytes}: it is truncated or its header is wrong`);
  }
  const bytes = shape.reduce((a, b) => a * b, dtypeBytes[dtype as Dtype] as number);
  if (bytes !== end - begin) {
    throw bad(
      what,
      `${tensor}, ${dtype} [${shape.join(', ')}], needs ${bytes} bytes, but its offsets span ${end - begin}`,
    );
  }
  return { dtype: dtype as Dtype, shape, begin, end };
}

function checkCoverage(entries: ReadonlyMap<string, TensorEntry>, dataStart: number, fileBytes: number, what: string) {
  let at = dataStart;
  for (const [name, e] of [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (e.begin < at) throw bad(what, `tensor ${show(name)} overlaps another one at byte ${e.begin}`);
    if (e.begin > at) throw bad(what, `bytes ${at} to ${e.begin} belong to no tensor`);
    at = e.end;
  }
  if (at !== fileBytes) throw bad(what, `bytes ${at} to ${fileBytes} belong to no tensor`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

function bad(what: string, problem: string): Error {
  return new Error(`${what} is not a valid safetensors file: ${problem}. Fetch or write the file again.`);
}
