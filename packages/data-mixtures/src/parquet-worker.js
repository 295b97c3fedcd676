// Reads parquet for ObelicsSet. Plain JavaScript, as decode-worker.js is and for the same reason. Here because a damaged
// file can keep the parser busy for ever: a worker can be ended.
import { parentPort } from 'node:worker_threads';
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } from 'hyparquet';

const open = async (path) => {
  const file = await asyncBufferFromFile(path);
  return { file, metadata: await parquetMetadataAsync(file) };
};

const answers = {
  /** Column names, and rows and bytes of each row group. */
  async describe({ path }) {
    const { metadata } = await open(path);
    const columns = parquetSchema(metadata).children.map((column) => column.element.name);
    const groups = metadata.row_groups.map((group) => ({
      rows: Number(group.num_rows),
      bytes: Number(group.total_byte_size),
    }));
    return { columns, groups };
  },
  /** Rows as objects. */
  async read({ path, columns, rowStart, rowEnd }) {
    // Bytes are not text: only columns of type STRING are decoded.
    return parquetReadObjects({ ...(await open(path)), columns, rowStart, rowEnd, utf8: false });
  },
};

parentPort.on('message', (job) => {
  answers[job.kind](job).then(
    (value) => parentPort.postMessage({ value }),
    (error) => parentPort.postMessage({ error: String(error?.message ?? error) }),
  );
});
