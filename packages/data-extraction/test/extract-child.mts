// Extracts in a process of its own, which a test kills. Arguments: output folder, Redis server or `-`, input folders.
import { extractPages } from '../src/index';

const [out, redis, ...inputs] = process.argv.slice(2);
await extractPages({
  inputs,
  out: out!,
  workers: 2,
  ...(redis !== '-' && { redis: redis! }),
  onProgress: ({ units, ofUnits }) => process.stdout.write(`${units} of ${ofUnits}\n`),
});
