import { expectFinite } from './finite';
import { openCheckpoint, readState, systemError, writeAtomically, type FloatTensor } from './files';
import { parseJson } from './json';
import { nodeModules } from './node';
import { fileParts } from './safetensors';

/** A training run's whole state at one step. */
export interface SavedCheckpoint<State> {
  readonly step: number;
  readonly path: string;
  /** What was saved with the tensors: configuration, seed, position in the data. */
  readonly state: State;
  /** Newer checkpoints that are damaged and were skipped, newest first: the file of each and what is wrong with it. */
  readonly skipped: readonly string[];
  /** Reads one part, such as `model` or `optimizer`. */
  read(part: string): Promise<Record<string, FloatTensor>>;
}

export interface CheckpointFolderOptions {
  /** How many of the newest checkpoints to keep. Defaults to all. */
  readonly keep?: number;
}

interface PartSum {
  readonly bytes: number;
  /** SHA-256 of the part's file, in hexadecimal. */
  readonly sha256: string;
}

/** Content of `checkpoint.json`: enough to tell whether a checkpoint is undamaged. */
interface Manifest<State> {
  readonly step: number;
  /** Size and hash of each part's file. Checkpoints of earlier versions have the size alone. */
  readonly parts: Readonly<Record<string, PartSum | number>>;
  readonly state: State;
  /** SHA-256 of the manifest without this key; missing in checkpoints of earlier versions. */
  readonly sha256?: string;
}

const manifestFile = 'checkpoint.json';
const fixIt = 'Remove that folder to resume from the checkpoint before it, or restore it from a copy.';
/** Bytes to hash at a time; `Hash.update` refuses 2 GiB and more. */
const hashChunk = 2 ** 24;

/**
 * The checkpoints of a training run: `step-000123/` with one safetensors file per part and a `checkpoint.json`, which has
 * a SHA-256 hash of each. A checkpoint is written to a temporary folder and renamed when it is complete, so that a run
 * killed at any moment leaves only complete ones. Only one process may write at a time.
 */
export class CheckpointFolder<State> {
  constructor(
    readonly path: string,
    private readonly options: CheckpointFolderOptions = {},
  ) {
    const { keep = 1 } = options;
    if (!(keep >= 1)) throw new Error(`CheckpointFolder: keep must be 1 or more, got ${keep}. Omit it to keep all.`);
  }

  /**
   * Saves a checkpoint and removes those beyond `keep`.
   *
   * @param step  number of finished steps
   * @param parts tensors by part and name: `{ model, optimizer }`
   * @param state any JSON value
   * @returns     the checkpoint's path
   * @throws Error before anything is written for a NaN or an infinity, naming the part, tensor, index and value; and when
   *   the checkpoint cannot be written. Earlier checkpoints stay as they are.
   */
  async save(
    step: number,
    parts: Readonly<Record<string, Readonly<Record<string, FloatTensor>>>>,
    state: State,
  ): Promise<string> {
    const { fs, join } = nodeModules('CheckpointFolder.save');
    const name = `step-${String(step).padStart(6, '0')}`;
    const [path, temporary] = [join(this.path, name), join(this.path, `.${name}.tmp`)];
    for (const [part, tensors] of Object.entries(parts)) {
      for (const [tensor, { data }] of Object.entries(tensors)) {
        expectFinite(`${path}: ${part} ${tensor}`, data, 'F32', 'The checkpoint was not saved.');
      }
    }
    try {
      await fs.mkdir(this.path, { recursive: true });
      // Remove what a killed run left unfinished.
      await this.remove((await fs.readdir(this.path)).filter((file) => /^\.step-\d+\.tmp$/.test(file)));
      await fs.mkdir(temporary);
      await this.write(temporary, step, parts, state);
      // While a checkpoint of the same step is replaced, the old one stays readable under a second name.
      const replaced = `${path}.replaced`;
      if (await exists(path)) await fs.rename(path, replaced);
      await fs.rename(temporary, path);
      await fs.rm(replaced, { recursive: true, force: true });
    } catch (error) {
      await fs.rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      const [newest] = await this.names().catch(() => []);
      const kept = newest ? `The newest checkpoint is still ${newest}.` : 'There is no earlier checkpoint.';
      throw systemError(`${path}: the checkpoint of step ${step} could not be saved`, causeOf(error), kept);
    }
    await this.remove((await this.names()).slice(this.options.keep ?? Infinity));
    return path;
  }

  /**
   * The newest undamaged checkpoint, or undefined if there are none at all. Every byte of it is read and compared
   * with the hashes that were saved; `skipped` of the result names newer checkpoints that are damaged.
   *
   * @throws Error if there are checkpoints but all are damaged
   */
  async latest(): Promise<SavedCheckpoint<State> | undefined> {
    const skipped: string[] = [];
    for (const name of await this.names()) {
      try {
        return await this.open(name, skipped);
      } catch (error) {
        skipped.push((error as Error).message);
      }
    }
    if (skipped.length === 0) return undefined;
    throw new Error(`${this.path}: all checkpoints are damaged. ${skipped.join(' ')}`);
  }

  /** Every checkpoint, newest first, with what is wrong with it if it is damaged. Reads every byte. */
  async check(): Promise<{ readonly name: string; readonly damage?: string }[]> {
    const checked = [];
    for (const name of await this.names()) {
      const damage = await this.open(name, []).then(
        () => undefined,
        (error: Error) => error.message,
      );
      checked.push({ name, ...(damage !== undefined && { damage }) });
    }
    return checked;
  }

  private async write(
    folder: string,
    step: number,
    parts: Readonly<Record<string, Readonly<Record<string, FloatTensor>>>>,
    state: State,
  ): Promise<void> {
    const { join, createHash } = nodeModules('CheckpointFolder.save');
    const sums: Record<string, PartSum> = {};
    for (const [part, tensors] of Object.entries(parts)) {
      const hash = createHash('sha256');
      let bytes = 0;
      const hashed = function* () {
        for (const chunk of fileParts(tensors, {})) {
          for (let at = 0; at < chunk.length; at += hashChunk) hash.update(chunk.subarray(at, at + hashChunk));
          bytes += chunk.length;
          yield chunk;
        }
      };
      await writeAtomically(fileOf(folder, part), hashed());
      sums[part] = { bytes, sha256: hash.digest('hex') };
    }
    const manifest: Manifest<State> = { step, parts: sums, state };
    const json = JSON.stringify({ ...manifest, sha256: sumOf(manifest) }, null, 2);
    await writeAtomically(join(folder, manifestFile), [new TextEncoder().encode(`${json}\n`)]);
  }

  /** Checks one checkpoint: its manifest, and the size, hash and header of every part. */
  private async open(name: string, skipped: readonly string[]): Promise<SavedCheckpoint<State>> {
    const { join } = nodeModules('CheckpointFolder.latest');
    const path = join(this.path, name);
    const { step, parts, state } = await readManifest<State>(join(path, manifestFile));
    for (const [part, sum] of Object.entries(parts)) {
      const file = fileOf(path, part);
      await checkPart(file, sum);
      await (await openCheckpoint(file)).close();
    }
    return {
      step,
      path,
      state,
      skipped,
      read: async (part) => {
        if (!Object.hasOwn(parts, part)) {
          throw new Error(`${path}: no part ${part}. Use one of its parts: ${Object.keys(parts).join(', ')}.`);
        }
        return readState(fileOf(path, part));
      },
    };
  }

  /** Folders of checkpoints, newest first. */
  private async names(): Promise<string[]> {
    const { fs } = nodeModules('CheckpointFolder.latest');
    const entries = (await exists(this.path)) ? await fs.readdir(this.path) : [];
    const stepOf = (name: string) => Number(/^step-(\d+)/.exec(name)![1]);
    return entries
      .filter((name) => /^step-\d+(\.replaced)?$/.test(name))
      .sort((a, b) => stepOf(b) - stepOf(a) || a.length - b.length);
  }

  private async remove(names: readonly string[]): Promise<void> {
    const { fs, join } = nodeModules('CheckpointFolder.save');
    for (const name of names) await fs.rm(join(this.path, name), { recursive: true, force: true });
  }
}

function fileOf(folder: string, part: string): string {
  return nodeModules('CheckpointFolder').join(folder, `${part}.safetensors`);
}

/** The system error behind one that names a file in the temporary folder. */
function causeOf(error: unknown): unknown {
  return (error as Error).cause ?? error;
}

function sumOf<State>({ step, parts, state }: Manifest<State>): string {
  const { createHash } = nodeModules('CheckpointFolder');
  return createHash('sha256').update(JSON.stringify({ step, parts, state })).digest('hex');
}

async function readManifest<State>(path: string): Promise<Manifest<State>> {
  const { fs } = nodeModules('CheckpointFolder.latest');
  const bytes = await fs.readFile(path).catch(() => {
    throw new Error(`${path} is missing. ${fixIt}`);
  });
  let manifest: Manifest<State> | undefined;
  try {
    manifest = parseJson(bytes, path) as Manifest<State>;
  } catch {
    // Invalid JSON gets the same error as JSON of another shape.
  }
  const parts = Object.values(manifest?.parts ?? {});
  if (!manifest || !Number.isInteger(manifest.step) || parts.length === 0) {
    throw new Error(`${path} must be JSON with step, parts and state; it is truncated or another file. ${fixIt}`);
  }
  const isEarlier = manifest.sha256 === undefined && parts.every((part) => typeof part === 'number');
  if (!isEarlier && manifest.sha256 !== sumOf(manifest)) {
    throw new Error(`${path} is damaged: its content does not match its SHA-256 hash. ${fixIt}`);
  }
  return manifest;
}

async function checkPart(file: string, sum: PartSum | number): Promise<void> {
  const { fs, createHash } = nodeModules('CheckpointFolder.latest');
  const { bytes, sha256 } = typeof sum === 'number' ? { bytes: sum, sha256: undefined } : sum;
  const size = (await fs.stat(file).catch(() => undefined))?.size;
  if (size !== bytes) {
    throw new Error(
      `${file} must have ${bytes} bytes, ${size === undefined ? 'it is missing' : `it has ${size}`}. ${fixIt}`,
    );
  }
  if (sha256 === undefined) return;
  const hash = createHash('sha256');
  const handle = await fs.open(file);
  try {
    for await (const chunk of handle.createReadStream({ autoClose: false, highWaterMark: hashChunk }))
      hash.update(chunk as Buffer);
  } finally {
    await handle.close();
  }
  if (hash.digest('hex') !== sha256) {
    throw new Error(`${file} is damaged: its content does not match its SHA-256 hash in ${manifestFile}. ${fixIt}`);
  }
}

async function exists(path: string): Promise<boolean> {
  const { fs } = nodeModules('CheckpointFolder');
  return fs.stat(path).then(
    () => true,
    () => false,
  );
}
