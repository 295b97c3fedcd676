import { decode, dtypeBytes } from './dtypes';
import { readInto, type OpenCheckpoint } from './files';
import { expectNoLfsPointer } from './json';
import { nodeModules } from './node';
import { readPickle, TorchTensor, type PickledDict } from './torch-pickle';
import { contentOf, zipEntries, type ReadBytes, type ZipEntry } from './torch-zip';

/** Options of `openTorchCheckpoint`. */
export interface TorchOptions {
  /**
   * The key of the dictionary with the tensors. Defaults to `model_state_dict` or `state_dict` if the file has one, and
   * otherwise the file itself is the state dict.
   */
  readonly key?: string;
}

/** Maximum size of the pickle that describes the tensors; a thousand tensors take about 200 kB. */
const maxPickleBytes = 100_000_000;

/**
 * Opens a `.pt` or `.pth` file as torch.save writes it since PyTorch 1.6: a state dict, or a dictionary with one. Nothing
 * in it is executed (see `readPickle`); values are read tensor by tensor. Values that are not tensors are skipped.
 *
 * @throws Error naming the path if the file is missing, damaged, older, or refers to functions that only attacks use
 */
export async function openTorchCheckpoint(path: string, options: TorchOptions = {}): Promise<OpenCheckpoint> {
  const { fs } = nodeModules('openTorchCheckpoint');
  const handle = await fs.open(path).catch(() => {
    throw new Error(`${path} does not exist or cannot be read: expected a .pt file. Check the path.`);
  });
  const fail = (problem: string) =>
    new Error(
      `${path} is not a readable PyTorch checkpoint: ${problem}. Fetch the file again, or save it as safetensors.`,
    );
  const read: ReadBytes = async (begin, end) =>
    readInto(bytesFor(end - begin, fail), handle, begin, (at) => fail(`it ends at byte ${at}, expected ${end}`));
  try {
    const { size } = await handle.stat();
    expectNoLfsPointer(await read(0, Math.min(64, size)), path);
    const archive = await openArchive(read, size, fail);
    const tensors = tensorsOf(readPickle(await archive.read('data.pkl'), fail), options, fail);
    for (const [name, tensor] of tensors) archive.check(name, tensor);
    const find = (name: string): TorchTensor => {
      const tensor = tensors.get(name);
      if (!tensor) throw new Error(`${path}: no tensor ${name}. See names for its tensors.`);
      return tensor;
    };
    return {
      names: [...tensors.keys()],
      metadata: {},
      info(name) {
        const { storage, shape } = find(name);
        return { dtype: storage.dtype, shape };
      },
      async read(name) {
        const { storage, shape } = find(name);
        return {
          dtype: storage.dtype,
          shape,
          data: decode(await archive.bytes(find(name)), storage.dtype, `${path}: tensor ${name}`),
        };
      },
      borrow: async (name) => ({ bytes: await archive.bytes(find(name)), close: () => undefined }),
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** @throws Error if one array cannot hold as many bytes: 4 GiB in Node 20 */
function bytesFor(count: number, fail: (problem: string) => Error): Uint8Array {
  try {
    return new Uint8Array(count);
  } catch {
    throw fail(`${count} bytes of one tensor are more than an array can hold`);
  }
}

/** The files of a checkpoint's archive. */
interface Archive {
  /** Bytes of a whole file. */
  read(file: string): Promise<Uint8Array>;
  /** @throws Error unless the file of a tensor's storage exists and has its size */
  check(name: string, tensor: TorchTensor): void;
  /** The elements of a tensor, row-major and little-endian. */
  bytes(tensor: TorchTensor): Promise<Uint8Array>;
}

async function openArchive(read: ReadBytes, fileBytes: number, fail: (problem: string) => Error): Promise<Archive> {
  const start = await read(0, Math.min(4, fileBytes));
  // Before 1.6 a file was a sequence of pickles, which starts with this instruction.
  if (start[0] === 0x80) {
    throw fail(
      'it was written by PyTorch before 1.6, or is a bare pickle. With PyTorch, torch.save(torch.load(file), file) ' +
        'converts it to the current format',
    );
  }
  const entries = await zipEntries(read, fileBytes, fail);
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) throw fail(`expected a zip archive with one NAME/data.pkl, got ${pickles.length}`);
  const root = pickles[0]!.slice(0, -'data.pkl'.length);
  const find = (file: string): ZipEntry => {
    const entry = entries.get(root + file);
    if (!entry) throw fail(`it has no file ${file}`);
    return entry;
  };
  const archive: Archive = {
    async read(file) {
      const entry = find(file);
      if (entry.size > maxPickleBytes)
        throw fail(`expected ${file} of at most ${maxPickleBytes} bytes, got ${entry.size}`);
      const begin = await contentOf(entry, read, fileBytes, fail);
      return read(begin, begin + entry.size);
    },
    check(name, { storage: { dtype, key, length } }) {
      const { size } = find(`data/${key}`);
      if (size !== length * dtypeBytes[dtype]) {
        throw fail(`${name} is stored in ${length} values of ${dtype}, but data/${key} has ${size} bytes`);
      }
    },
    async bytes({ storage: { dtype, key }, offset, shape, strides }) {
      const each = dtypeBytes[dtype];
      const count = shape.reduce((a, b) => a * b, 1);
      const span = count === 0 ? 0 : 1 + shape.reduce((sum, n, i) => sum + (n - 1) * strides[i]!, 0);
      const begin = (await contentOf(find(`data/${key}`), read, fileBytes, fail)) + offset * each;
      const seen = await read(begin, begin + span * each);
      return isRowMajor(shape, strides) ? seen : gather(seen, each, shape, strides);
    },
  };
  if (entries.has(`${root}byteorder`)) {
    const order = new TextDecoder().decode(await archive.read('byteorder'));
    if (order !== 'little') throw fail(`expected little-endian numbers, got byte order ${order.slice(0, 20)}`);
  }
  return archive;
}

/** The tensors of a state dict by name. */
function tensorsOf(
  root: unknown,
  { key }: TorchOptions,
  fail: (problem: string) => Error,
): ReadonlyMap<string, TorchTensor> {
  const dict = expectDict(root, 'the file', fail);
  const inner = key ?? ['model_state_dict', 'state_dict'].find((name) => dict.get(name) instanceof Map);
  const state = inner === undefined ? dict : expectDict(dict.get(inner), `its entry ${inner}`, fail);
  const tensors = new Map<string, TorchTensor>();
  for (const [name, value] of state) {
    if (typeof name === 'string' && value instanceof TorchTensor) tensors.set(name, value);
  }
  if (tensors.size === 0) {
    const names = [...state.keys()].slice(0, 8).map(String).join(', ');
    throw fail(
      `${inner ?? 'it'} holds no tensor, only ${names || 'nothing'}. Set \`key\` to the key of the dictionary with tensors`,
    );
  }
  return tensors;
}

function expectDict(value: unknown, what: string, fail: (problem: string) => Error): PickledDict {
  if (!(value instanceof Map)) throw fail(`${what} must be a dictionary of tensors`);
  return value;
}

function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) return false;
    step *= shape[axis]!;
  }
  return true;
}

/** The elements of a transposed or sliced view in row-major order. */
function gather(seen: Uint8Array, each: number, shape: readonly number[], strides: readonly number[]): Uint8Array {
  const values = new Uint8Array(shape.reduce((a, b) => a * b, each));
  const place = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < values.length; to += each) {
    for (let i = 0; i < each; i++) values[to + i] = seen[from * each + i]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++place[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      place[axis] = 0;
    }
  }
  return values;
}
