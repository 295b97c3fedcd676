import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs';
import { readFile, rename } from 'node:fs/promises';
import { createInterface } from 'node:readline';

/**
 * Reads a file that holds one JSON value.
 *
 * @param fix what to do if it is damaged, as a sentence
 */
export async function readJson<T>(file: string, fix: string): Promise<T> {
  const text = await readFile(file, 'utf8');
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new Error(`${file} is damaged: ${(error as Error).message}. ${fix}`, { cause: error });
  }
}

/** Reads a file that holds one JSON value per line. */
export async function* readLines<T>(file: string): AsyncGenerator<T> {
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    yield JSON.parse(line) as T;
  }
}

/** Writes values as JSON lines. The file appears under its name once it is complete. */
export class LineWriter {
  /** Values written. */
  lines = 0;
  private readonly stream: WriteStream;
  private failure: Error | undefined;
  private readonly hash: Hash = createHash('sha256');

  /** @param temporary where the file is written before it is complete; no other writer may use it */
  constructor(
    private readonly file: string,
    private readonly temporary = `${file}.tmp`,
  ) {
    this.stream = createWriteStream(temporary).on('error', (error) => (this.failure = error));
  }

  /** @throws Error if this write or an earlier one failed */
  async write(value: object): Promise<void> {
    if (this.failure) throw this.failure;
    const line = `${JSON.stringify(value)}\n`;
    this.hash.update(line);
    this.lines++;
    if (!this.stream.write(line)) await once(this.stream, 'drain');
  }

  /** @returns SHA-256 of the file */
  async close(): Promise<string> {
    if (this.failure) throw this.failure;
    this.stream.end();
    await once(this.stream, 'close');
    await rename(this.temporary, this.file);
    return this.hash.digest('hex');
  }
}
