// Reads parquet for ObelicsDataset. Plain JavaScript, as decode-worker.js is and for the same reason. Here because a damaged
// file can keep the parser busy for ever: a worker can be ended.
import { parentPort } from 'node:worker_threads';
import * as zlib from 'node:zlib';
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } from 'hyparquet';

/** What Node can unfold beside what the parser can, to no more than the file says; Zstandard from Node 22.15 on. */
const compressors = Object.fromEntries(
  [
    ['GZIP', zlib.gunzipSync],
    ['BROTLI', zlib.brotliDecompressSync],
    ['ZSTD', zlib.zstdDecompressSync],
  ]
    .filter(([, unfold]) => unfold)
    .map(([codec, unfold]) => [codec, (bytes, size) => unfold(bytes, { maxOutputLength: Math.max(1, size) })]),
);
const readable = ['UNCOMPRESSED', 'SNAPPY', ...Object.keys(compressors)];

const open = async (path) => {
  const file = await asyncBufferFromFile(path);
  return { file, metadata: await parquetMetadataAsync(file) };
};

const answers = {
  /** Column names, rows and bytes of each row group, and how columns are compressed that cannot be read. */
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
    // Bytes are not text: only columns of type STRING are decoded.
    return parquetReadObjects({ ...(await open(path)), columns, rowStart, rowEnd, utf8: false, compressors });
  },
};

parentPort.on('message', (job) => {
  answers[job.kind](job).then(
    (value) => parentPort.postMessage({ value }),
    (error) => parentPort.postMessage({ error: String(error?.message ?? error) }),
  );
});
