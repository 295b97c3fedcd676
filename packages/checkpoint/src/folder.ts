import { openCheckpoint, readState, writeAtomically, writeSafetensors, type FloatTensor } from './files';
import { nodeModules } from './node';

/** A training run's whole state at one step. */
export interface SavedCheckpoint<State> {
  readonly step: number;
  readonly path: string;
  /** What was saved beside the tensors: configuration, seed, position in the data. */
  readonly state: State;
  /** Newer checkpoints that were passed over because they are not whole, and why. */
  readonly skipped: readonly string[];
  /** Reads one part, `model` or `optimizer` for example. */
  read(part: string): Promise<Record<string, FloatTensor>>;
}

export interface CheckpointFolderOptions {
  /** How many of the newest checkpoints are kept. Default all. */
  readonly keep?: number;
}

/** What `checkpoint.json` says: enough to tell whether a checkpoint is whole. */
interface Manifest<State> {
  readonly step: number;
  /** Size in bytes of each part's file. */
  readonly parts: Readonly<Record<string, number>>;
  readonly state: State;
}

const manifestFile = 'checkpoint.json';
const fixIt = 'Remove that folder to go on from the one before, or restore it from a copy.';

/**
 * The checkpoints of a training run: `step-000123/` with one safetensors file a part and a `checkpoint.json`. A
 * checkpoint is written beside its place and renamed when it is complete, so a run killed at any moment leaves whole
 * ones only. One process writes at a time.
 */
export class CheckpointFolder<State> {
  constructor(
    readonly path: string,
    private readonly options: CheckpointFolderOptions = {},
  ) {
    const { keep = 1 } = options;
    if (!(keep >= 1))
      throw new Error(`CheckpointFolder: keep must be 1 or more, got ${keep}. Leave it out to keep all.`);
  }

  /**
   * Saves a checkpoint and removes those beyond `keep`.
   *
   * @param step  steps done
   * @param parts tensors by part and name: `{ model, optimizer }`
   * @param state anything that JSON can hold
   * @returns     the checkpoint's path
   */
  async save(
    step: number,
    parts: Readonly<Record<string, Readonly<Record<string, FloatTensor>>>>,
    state: State,
  ): Promise<string> {
    const { fs, join } = nodeModules('CheckpointFolder.save');
    const name = `step-${String(step).padStart(6, '0')}`;
    const [path, temporary] = [join(this.path, name), join(this.path, `.${name}.tmp`)];
    await fs.mkdir(this.path, { recursive: true });
    // What a killed run left half written goes first.
    await this.remove((await fs.readdir(this.path)).filter((file) => /^\.step-\d+\.tmp$/.test(file)));
    await fs.mkdir(temporary);
    const sizes: Record<string, number> = {};
    for (const [part, tensors] of Object.entries(parts)) {
      const file = join(temporary, `${part}.safetensors`);
      await writeSafetensors(file, tensors);
      sizes[part] = (await fs.stat(file)).size;
    }
    const manifest: Manifest<State> = { step, parts: sizes, state };
    const json = new TextEncoder().encode(`${JSON.stringify(manifest, null, 2)}\n`);
    await writeAtomically(join(temporary, manifestFile), [json]);
    // A checkpoint of the same step stays readable under its second name until the new one has the first.
    const replaced = `${path}.replaced`;
    if (await exists(path)) await fs.rename(path, replaced);
    await fs.rename(temporary, path);
    await fs.rm(replaced, { recursive: true, force: true });
    await this.remove((await this.names()).slice(this.options.keep ?? Infinity));
    return path;
  }

  /**
   * The newest whole checkpoint; undefined when there is none at all.
   *
   * @throws Error when there are checkpoints but none of them is whole
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
    throw new Error(`${this.path}: no checkpoint is whole. ${skipped.join(' ')}`);
  }

  /** Checks one checkpoint: its manifest, and the size and header of every part. */
  private async open(name: string, skipped: readonly string[]): Promise<SavedCheckpoint<State>> {
    const { fs, join } = nodeModules('CheckpointFolder.latest');
    const path = join(this.path, name);
    const { step, parts, state } = await this.manifest(join(path, manifestFile));
    const fileOf = (part: string) => join(path, `${part}.safetensors`);
    for (const [part, bytes] of Object.entries(parts)) {
      const size = (await fs.stat(fileOf(part)).catch(() => undefined))?.size;
      if (size !== bytes) {
        const got = size === undefined ? 'it is missing' : `it has ${size}`;
        throw new Error(`${fileOf(part)} must have ${bytes} bytes, ${got}. ${fixIt}`);
      }
      await (await openCheckpoint(fileOf(part))).close();
    }
    return {
      step,
      path,
      state,
      skipped,
      read: async (part) => {
        if (!Object.hasOwn(parts, part)) {
          throw new Error(`${path}: no part ${part}; it has ${Object.keys(parts).join(', ')}. Ask for one of these.`);
        }
        return readState(fileOf(part));
      },
    };
  }

  private async manifest(path: string): Promise<Manifest<State>> {
    const { fs } = nodeModules('CheckpointFolder.latest');
    const text = await fs.readFile(path, 'utf8').catch(() => {
      throw new Error(`${path} is missing. ${fixIt}`);
    });
    try {
      const manifest = JSON.parse(text) as Manifest<State>;
      if (Number.isInteger(manifest.step) && Object.keys(manifest.parts).length > 0) return manifest;
    } catch {
      // Broken JSON and JSON of another form are the same fault to the reader.
    }
    throw new Error(`${path} must be JSON with step, parts and state, it is something else or was cut off. ${fixIt}`);
  }

  /** Folders of checkpoints, newest first. */
  private async names(): Promise<string[]> {
    const { fs } = nodeModules('CheckpointFolder.latest');
    const found = (await exists(this.path)) ? await fs.readdir(this.path) : [];
    const stepOf = (name: string) => Number(/^step-(\d+)/.exec(name)![1]);
    return found
      .filter((name) => /^step-\d+(\.replaced)?$/.test(name))
      .sort((a, b) => stepOf(b) - stepOf(a) || a.length - b.length);
  }

  private async remove(names: readonly string[]): Promise<void> {
    const { fs, join } = nodeModules('CheckpointFolder.save');
    for (const name of names) await fs.rm(join(this.path, name), { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  const { fs } = nodeModules('CheckpointFolder');
  return fs.stat(path).then(
    () => true,
    () => false,
  );
}
