import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs';
import { rename } from 'node:fs/promises';
import { createInterface } from 'node:readline';

/** Values of a file that holds one in each line. */
export async function* readLines<T>(file: string): AsyncGenerator<T> {
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    yield JSON.parse(line) as T;
  }
}

/** Writes values as lines of a file that appears under its name when all are there. */
export class LineWriter {
  /** Values written. */
  lines = 0;
  private readonly stream: WriteStream;
  private failure: Error | undefined;
  private readonly hash: Hash = createHash('sha256');

  /** @param temporary where the file stands while it is written; no other writer may use it */
  constructor(
    private readonly file: string,
    private readonly temporary = `${file}.tmp`,
  ) {
    this.stream = createWriteStream(temporary).on('error', (error) => (this.failure = error));
  }

  /** @throws Error of the disk, of this write or one before */
  async write(value: object): Promise<void> {
    if (this.failure) throw this.failure;
    const line = `${JSON.stringify(value)}\n`;
    this.hash.update(line);
    this.lines++;
    if (!this.stream.write(line)) await once(this.stream, 'drain');
  }

  /** @returns SHA-256 of what was written */
  async close(): Promise<string> {
    if (this.failure) throw this.failure;
    this.stream.end();
    await once(this.stream, 'close');
    await rename(this.temporary, this.file);
    return this.hash.digest('hex');
  }
}
