// A worker process for tests to kill. Arguments: output folder, URL of the Redis server.
import { runPageWorker } from '../src/index';

const [out, redis] = process.argv.slice(2);
await runPageWorker({ out: out!, redis: redis!, workers: 1 });
