// An extraction process for tests to kill. Arguments: output folder, URL of a Redis server or `-`, input folders.
import { extractPages } from '../src/index';

const [out, redis, ...inputs] = process.argv.slice(2);
await extractPages({
  inputs,
  out: out!,
  workers: 2,
  ...(redis !== '-' && { redis: redis! }),
  onProgress: ({ units, ofUnits }) => process.stdout.write(`${units} of ${ofUnits}\n`),
});
