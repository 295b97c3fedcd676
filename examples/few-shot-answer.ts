/**
 * Asks a trained model a few-shot question: two shots show what to answer, and the model chooses a candidate for a third
 * image. Train a model first, with `npm run quickstart` or `flamingo train`.
 *
 *   npm install @flamingo-ts/trainer @flamingo-ts/kernels sharp
 */
import { existsSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { useBackend } from '@flamingo-ts/kernels';
import { answerPrompt, loadConfig } from '@flamingo-ts/trainer';
import sharp from 'sharp';

const run = process.argv[2] ?? 'runs/quickstart';
// Every stage of a run saves its configuration next to its weights.
const file = path.join(run, 'flamingo', 'config.yaml');
if (!existsSync(file)) {
  throw new Error(`${run} has no trained model. Run \`npm run quickstart\`, or pass the folder of another run.`);
}
const config = loadConfig(file, { out: run });
await useBackend(config.backend);

const folder = mkdtempSync(path.join(tmpdir(), 'few-shot-'));

/** Draws a disc and saves it. @returns the path of the image */
async function disc(color: string): Promise<string> {
  const file = path.join(folder, `${color}.png`);
  const svg = `<svg viewBox="0 0 96 96" width="96" height="96"><circle cx="48" cy="48" r="40" fill="${color}"/></svg>`;
  await sharp(Buffer.from(svg)).png().toFile(file);
  return file;
}

const { answer, probabilities } = await answerPrompt(config, {
  example: [`${await disc('red')}=red`, `${await disc('green')}=green`],
  image: await disc('tomato'),
  candidates: ['red', 'green'],
});
console.log(`answer: ${answer}`);
for (const [candidate, probability] of Object.entries(probabilities!)) {
  console.log(`${candidate}: ${probability.toFixed(3)}`);
}
