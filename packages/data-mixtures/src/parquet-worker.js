// Reads parquet for ObelicsDataset. Plain JavaScript for the same reason as decode-worker.js. Runs in a worker because a
// damaged file can keep the parser busy forever, and a worker can be terminated.
import { TextDecoder } from 'node:util';
import { parentPort } from 'node:worker_threads';
import * as zlib from 'node:zlib';
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } from 'hyparquet';

/** Decompressors of Node, limited to the size that the file declares. Node has Zstandard from 22.15 on. */
const compressors = Object.fromEntries(
  [
    ['GZIP', zlib.gunzipSync],
    ['BROTLI', zlib.brotliDecompressSync],
    ['ZSTD', zlib.zstdDecompressSync],
  ]
    .filter(([, decompress]) => decompress)
    .map(([codec, decompress]) => [codec, (bytes, size) => decompress(bytes, { maxOutputLength: Math.max(1, size) })]),
);
const readable = ['UNCOMPRESSED', 'SNAPPY', ...Object.keys(compressors)];

const decoder = new TextDecoder('utf-8', { fatal: true });
const parsers = {
  /** Returns the bytes if they are not UTF-8, so that the page is rejected instead of garbled. */
  stringFromBytes(bytes) {
    try {
      return bytes && decoder.decode(bytes);
    } catch {
      return bytes;
    }
  },
};

const open = async (path) => {
  const file = await asyncBufferFromFile(path);
  return { file, metadata: await parquetMetadataAsync(file) };
};

const answers = {
  /** Column names, rows and bytes of each row group, and compressions that cannot be read. */
  async describe({ path }) {
    const { metadata } = await open(path);
    const columns = parquetSchema(metadata).children.map((column) => column.element.name);
    const groups = metadata.row_groups.map((group) => ({
      rows: Number(group.num_rows),
      bytes: Number(group.total_byte_size),
    }));
    const codecs = metadata.row_groups.flatMap((group) => group.columns.map((column) => column.meta_data?.codec));
    const unreadable = [...new Set(codecs)].filter((codec) => codec && !readable.includes(codec));
    return { columns, groups, unreadable, readable };
  },
  /** Rows as objects. */
  async read({ path, columns, rowStart, rowEnd }) {
    // Without `utf8` only columns annotated as STRING are decoded, so that image bytes stay bytes.
    return parquetReadObjects({ ...(await open(path)), columns, rowStart, rowEnd, utf8: false, compressors, parsers });
  },
};

parentPort.on('message', (job) => {
  answers[job.kind](job).then(
    (value) => parentPort.postMessage({ value }),
    (error) => parentPort.postMessage({ error: String(error?.message ?? error) }),
  );
});
