// Extracts in a process of its own, which a test kills. Arguments: output folder, input folders.
import { extractPages } from '../src/index';

const [out, ...inputs] = process.argv.slice(2);
await extractPages({
  inputs,
  out: out!,
  workers: 2,
  onProgress: ({ units, ofUnits }) => process.stdout.write(`${units} of ${ofUnits}\n`),
});
