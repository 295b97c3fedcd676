// Does units of a job in a process of its own, which a test kills. Arguments: output folder, Redis server.
import { workOnPages } from '../src/index';

const [out, redis] = process.argv.slice(2);
await workOnPages({ out: out!, redis: redis!, workers: 1 });
