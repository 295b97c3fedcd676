import type { Dtype } from './dtypes';

/** Numbers in one file of the archive; several tensors may share it. */
export class TorchStorage {
  constructor(
    readonly dtype: Dtype,
    /** Its file is `data/KEY`. */
    readonly key: string,
    readonly length: number,
  ) {}
}

/** A tensor as a view of a storage, checked against the storage's length. */
export class TorchTensor {
  constructor(
    readonly storage: TorchStorage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** A Python dictionary. */
export type PickledDict = Map<unknown, unknown>;

/** A Python name that makes tensors and dictionaries. Names are compared, never looked up. */
class Global {
  constructor(readonly name: string) {}
}

/** Any other Python name, and every object made with it: its content is skipped. */
class Unread {
  constructor(readonly name: string) {}
}

class Tuple {
  constructor(readonly items: readonly unknown[]) {}
}

const STORAGES: Readonly<Record<string, Dtype>> = {
  'torch FloatStorage': 'F32',
  'torch DoubleStorage': 'F64',
  'torch HalfStorage': 'F16',
  'torch BFloat16Storage': 'BF16',
  'torch LongStorage': 'I64',
  'torch IntStorage': 'I32',
  'torch CharStorage': 'I8',
  'torch ByteStorage': 'U8',
  'torch BoolStorage': 'BOOL',
};
const ORDERED_DICT = 'collections OrderedDict';
const REBUILD_TENSOR = 'torch._utils _rebuild_tensor_v2';
const REBUILD_PARAMETER = 'torch._utils _rebuild_parameter';
const KNOWN = new Set([ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, ...Object.keys(STORAGES)]);

/** Modules whose functions occur only in pickles that attack their reader. */
const ATTACKS =
  /^(_?posix|nt|os|sys|subprocess|_?socket|pty|shutil|importlib|runpy|ctypes|_?pickle|code|marshal|webbrowser|pip)(\.| )/;
/** Built-in Python types that occur in saved options; built-in functions do not. */
const PYTHON_TYPES =
  /^(__builtin__|builtins) (object|int|long|float|complex|bool|str|unicode|bytes|bytearray|list|tuple|dict|set|frozenset|range|xrange|slice)$/;

const maxRank = 16;

/**
 * The value of a pickle of protocol 2 as torch.save writes it. Pickles are programs. Only the instructions that build
 * dictionaries, lists, tuples, numbers, strings and tensors have an effect here; objects of other classes, such as the
 * arguments of a training run, are skipped. Nothing is executed, and each instruction of the file takes one step.
 *
 * @param fail makes an error from a problem
 */
export function readPickle(bytes: Uint8Array, fail: (problem: string) => Error): unknown {
  return new Unpickler(bytes, fail).run();
}

class Unpickler {
  private readonly view: DataView;
  private readonly memo = new Map<number, unknown>();
  private at = 0;
  private stack: unknown[] = [];
  /** The stack below each open MARK instruction. */
  private readonly below: unknown[][] = [];

  constructor(
    private readonly bytes: Uint8Array,
    private readonly fail: (problem: string) => Error,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): unknown {
    for (;;) {
      const opcode = this.uint8();
      if (opcode === 0x2e) return this.pop(); // STOP
      this.step(opcode);
    }
  }

  private step(opcode: number): void {
    const { stack, memo } = this;
    switch (opcode) {
      case 0x80: // PROTO
        return this.protocol(this.uint8());
      case 0x28: // MARK
        this.below.push(stack);
        this.stack = [];
        return;
      case 0x71: // BINPUT
        return void memo.set(this.uint8(), this.top());
      case 0x72: // LONG_BINPUT
        return void memo.set(this.uint32(), this.top());
      case 0x68: // BINGET
        return void stack.push(this.recall(this.uint8()));
      case 0x6a: // LONG_BINGET
        return void stack.push(this.recall(this.uint32()));
      case 0x4e: // NONE
        return void stack.push(null);
      case 0x88: // NEWTRUE
        return void stack.push(true);
      case 0x89: // NEWFALSE
        return void stack.push(false);
      case 0x4b: // BININT1
        return void stack.push(this.uint8());
      case 0x4d: // BININT2
        return void stack.push(this.view.getUint16(this.take(2), true));
      case 0x4a: // BININT
        return void stack.push(this.view.getInt32(this.take(4), true));
      case 0x8a: // LONG1
        return void stack.push(this.long(this.uint8()));
      case 0x47: // BINFLOAT, the only big-endian number
        return void stack.push(this.view.getFloat64(this.take(8), false));
      case 0x58: // BINUNICODE
        return void stack.push(this.text(this.uint32()));
      case 0x7d: // EMPTY_DICT
        return void stack.push(new Map());
      case 0x5d: // EMPTY_LIST
        return void stack.push([]);
      case 0x29: // EMPTY_TUPLE
        return void stack.push(new Tuple([]));
      case 0x85: // TUPLE1 to TUPLE3
      case 0x86:
      case 0x87:
        return void stack.push(new Tuple(this.popSome(opcode - 0x84)));
      case 0x74: {
        // TUPLE
        const items = this.sinceMark();
        return void this.stack.push(new Tuple(items));
      }
      case 0x61: // APPEND
        return this.append([this.pop()]);
      case 0x65: // APPENDS
        return this.append(this.sinceMark());
      case 0x73: // SETITEM
        return this.setItems(this.popSome(2));
      case 0x75: // SETITEMS
        return this.setItems(this.sinceMark());
      case 0x63: // GLOBAL
        return void stack.push(this.global());
      case 0x51: // BINPERSID
        return void stack.push(this.storage(this.pop()));
      case 0x52: // REDUCE
        return void stack.push(this.reduce(...(this.popSome(2) as [unknown, unknown])));
      case 0x81: // NEWOBJ
        return void stack.push(this.newObject(...(this.popSome(2) as [unknown, unknown])));
      case 0x62: // BUILD: attributes of a dictionary, such as the versions of its modules
        this.pop();
        if (!(this.top() instanceof Map || this.top() instanceof Unread))
          throw this.fail('it sets attributes of something other than a dictionary');
        return;
      default:
        throw this.fail(
          `its instruction 0x${opcode.toString(16)} at byte ${this.at - 1} is not one that a saved state dict needs`,
        );
    }
  }

  // --- Instructions ---

  private protocol(version: number): void {
    if (version !== 2) throw this.fail(`expected pickle protocol 2, the default of torch.save, got ${version}`);
  }

  private global(): Global | Unread {
    const name = `${this.line()} ${this.line()}`;
    if (KNOWN.has(name)) return new Global(name);
    const called = name.replace(' ', '.');
    if (/^torch \w{1,40}Storage$/.test(name)) {
      throw this.fail(
        `it holds numbers of ${called}, expected one of ${Object.keys(STORAGES).join(', ').replaceAll('torch ', 'torch.')}`,
      );
    }
    const isAttack = ATTACKS.test(name) || (/^(__builtin__|builtins) /.test(name) && !PYTHON_TYPES.test(name));
    // Another way to make tensors: skipping it could lose weights.
    const makesTensors = /^torch\S* _rebuild_/.test(name);
    if (!isAttack && !makesTensors) return new Unread(name);
    throw this.fail(
      `it refers to ${called.length > 80 ? `${called.slice(0, 80)}...` : called}, which is not run here: ` +
        'only tensors, dictionaries, lists and numbers are read',
    );
  }

  /** A storage from `('storage', type, key, device, length)`. */
  private storage(id: unknown): TorchStorage {
    const [kind, type, key, , length] = id instanceof Tuple ? id.items : [];
    const dtype = type instanceof Global && Object.hasOwn(STORAGES, type.name) ? STORAGES[type.name] : undefined;
    if (kind !== 'storage' || !dtype || typeof key !== 'string' || !isCount(length)) {
      throw this.fail('a storage must be defined by type, key, device and length');
    }
    return new TorchStorage(dtype, key, length);
  }

  private newObject(type: unknown, args: unknown): Unread {
    if (!(type instanceof Unread) || !(args instanceof Tuple))
      throw this.fail('it creates an object of an unknown class');
    return new Unread(type.name);
  }

  /** The three calls that make a state dict; results of other calls are skipped. */
  private reduce(callee: unknown, args: unknown): unknown {
    if (callee instanceof Unread && args instanceof Tuple) return new Unread(callee.name);
    if (!(callee instanceof Global) || !(args instanceof Tuple)) throw this.fail('it calls something without a name');
    const { items } = args;
    if (callee.name === ORDERED_DICT && items.length === 0) return new Map();
    if (callee.name === REBUILD_PARAMETER && items[0] instanceof TorchTensor) return items[0];
    if (callee.name === REBUILD_TENSOR) return this.tensor(items);
    throw this.fail(`it calls ${callee.name.replace(' ', '.')} in a way that torch.save does not`);
  }

  /** A tensor from `(storage, offset, shape, strides, ...)`. */
  private tensor([storage, offset, size, stride]: readonly unknown[]): TorchTensor {
    const shape = size instanceof Tuple ? size.items : undefined;
    const strides = stride instanceof Tuple ? stride.items : undefined;
    if (!(storage instanceof TorchStorage) || !isCount(offset) || !isCounts(shape) || !isCounts(strides)) {
      throw this.fail('a tensor must be defined by storage, offset, shape and strides');
    }
    const title = `the tensor [${shape.join(', ')}] of storage ${storage.key}`;
    if (shape.length > maxRank || strides.length !== shape.length) {
      throw this.fail(`${title} must have at most ${maxRank} axes and a stride for each, got ${strides.length}`);
    }
    const values = shape.reduce((a, b) => a * b, 1);
    const last = shape.reduce((sum, n, i) => sum + (n - 1) * strides[i]!, offset);
    // A stride of 0 repeats values: a small file could ask for any amount of memory.
    if (values > 0 && (last >= storage.length || values > storage.length)) {
      throw this.fail(`${title} needs ${values} values up to index ${last}, but the storage has ${storage.length}`);
    }
    return new TorchTensor(storage, offset, shape, strides);
  }

  private append(items: readonly unknown[]): void {
    const list = this.top();
    if (list instanceof Unread) return;
    if (!Array.isArray(list)) throw this.fail('it appends to something other than a list');
    for (const item of items) list.push(item);
  }

  private setItems(items: readonly unknown[]): void {
    const dict = this.top();
    if (dict instanceof Unread) return;
    if (!(dict instanceof Map) || items.length % 2)
      throw this.fail('it sets items of something other than a dictionary');
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
  }

  // --- Stack and memo ---

  private top(): unknown {
    if (this.stack.length === 0) throw this.fail(`at byte ${this.at} it uses a value that does not exist`);
    return this.stack[this.stack.length - 1];
  }

  private pop(): unknown {
    const value = this.top();
    this.stack.pop();
    return value;
  }

  private popSome(count: number): unknown[] {
    if (this.stack.length < count) throw this.fail(`at byte ${this.at} it uses a value that does not exist`);
    return this.stack.splice(-count);
  }

  private sinceMark(): unknown[] {
    const items = this.stack;
    const below = this.below.pop();
    if (!below) throw this.fail(`at byte ${this.at} it uses a MARK that does not exist`);
    this.stack = below;
    return items;
  }

  private recall(index: number): unknown {
    if (!this.memo.has(index)) throw this.fail(`at byte ${this.at} it reads a memo entry that does not exist`);
    return this.memo.get(index);
  }

  // --- Bytes ---

  /** Where the next bytes begin. */
  private take(count: number): number {
    const from = this.at;
    if (from + count > this.bytes.length) throw this.fail(`it ends at byte ${this.bytes.length}, in an instruction`);
    this.at += count;
    return from;
  }

  private uint8(): number {
    return this.view.getUint8(this.take(1));
  }

  private uint32(): number {
    return this.view.getUint32(this.take(4), true);
  }

  /** A whole number of up to 8 bytes; a state dict has no longer ones. */
  private long(count: number): number | bigint {
    if (count > 8) throw this.fail(`expected a whole number of at most 8 bytes, got ${count}`);
    const from = this.take(count);
    let value = 0n;
    for (let i = count - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[from + i]!);
    value = BigInt.asIntN(8 * count, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  private text(count: number): string {
    const from = this.take(count);
    return new TextDecoder().decode(this.bytes.subarray(from, from + count));
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    const text = this.text((end < 0 ? this.bytes.length : end) - this.at);
    this.take(1);
    return text;
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCounts(values: readonly unknown[] | undefined): values is readonly number[] {
  return values?.every(isCount) ?? false;
}
