import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { loadReference } from '@flamingo-ts/testing';
import type { GoldenCase, GoldenHandler, GoldenResult } from './case';

/** A case that is not read yet, so that a broken file fails this case only and not the whole run. */
interface FoundCase {
  readonly name: string;
  readonly folder: string;
  readonly file: string;
}

/**
 * Runs every case in the folders. Prints a line for each, and the counts at the end.
 *
 * @param print prints one line
 * @returns whether every case passed
 */
export async function runGoldens(
  folders: readonly string[],
  handlers: readonly GoldenHandler[],
  print: (line: string) => void,
): Promise<boolean> {
  const found = folders.flatMap(findCases);
  const width = Math.max(...found.map(({ name }) => name.length));
  let passed = 0;
  for (const item of found) {
    const { error, pass, note } = await runCase(item, handlers);
    if (pass) passed++;
    print([item.name.padEnd(width), show(error).padStart(8), pass ? 'pass' : 'fail', note ?? ''].join('  ').trimEnd());
  }
  print(`${passed} passed, ${found.length - passed} failed`);
  return passed === found.length;
}

async function runCase(item: FoundCase, handlers: readonly GoldenHandler[]): Promise<GoldenResult> {
  // The scope frees the tensors that a handler leaves; handlers dispose of variables themselves.
  tf.engine().startScope();
  try {
    const c = readCase(item);
    const handler = handlers.find((h) => recognizes(h, c));
    if (!handler) return { error: NaN, pass: false, note: 'unknown kind' };
    const result = await handler.run(c);
    // An error of NaN never passes.
    return { ...result, pass: result.pass && !Number.isNaN(result.error) };
  } catch (cause) {
    return {
      error: NaN,
      pass: false,
      note: (cause instanceof Error ? cause.message : String(cause)).split('\n', 1)[0]!,
    };
  } finally {
    tf.engine().endScope();
  }
}

/** Whether a handler matches; one that throws on an unexpected form does not. */
function recognizes(handler: GoldenHandler, c: GoldenCase): boolean {
  try {
    return handler.matches(c);
  } catch {
    return false;
  }
}

function readCase({ name, folder, file }: FoundCase): GoldenCase {
  const reference = loadReference(join(folder, file));
  return {
    name,
    folder,
    meta: reference.meta,
    get tensors() {
      return reference.tensors;
    },
    tensor: (tensor) => reference.tensor(tensor),
    sibling: (other) => loadReference(join(folder, other)),
  };
}

/** All cases in a folder and its subfolders, sorted by name. */
function findCases(given: string): FoundCase[] {
  const root = resolve(given);
  if (!existsSync(root) || !statSync(root).isDirectory()) {
    throw new Error(`there is no folder ${root}. Pass folders that contain reference cases: npm run goldens -- DIR...`);
  }
  const found = walk(root, basename(root));
  if (found.length === 0) {
    throw new Error(`${root} contains no reference case: found neither a NAME.json nor a folder with golden.json.`);
  }
  return found;
}

function walk(folder: string, name: string): FoundCase[] {
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  const below = entries.filter((e) => e.isDirectory()).flatMap((e) => walk(join(folder, e.name), `${name}/${e.name}`));
  const files = entries.filter((e) => !e.isDirectory()).map((e) => e.name);
  // A folder with golden.json is one case, to which its other files (config, weights, tokenizer) belong.
  const own = files.includes('golden.json')
    ? [{ name, folder, file: 'golden.json' }]
    : caseFiles(folder, files).map((file) => ({ name: `${name}/${file.replace(/\.\w+$/, '')}`, folder, file }));
  return [...own, ...below];
}

/** Every JSON file except the index, and every safetensors file that no JSON file of the folder describes or mentions. */
function caseFiles(folder: string, files: readonly string[]): string[] {
  const sidecars = files.filter((f) => f.endsWith('.json') && f !== 'index.json');
  const texts = sidecars.map((f) => readFileSync(join(folder, f), 'utf8'));
  const isOrphan = (f: string): boolean => {
    const stem = f.replace(/\.safetensors$/, '');
    return (
      stem !== f &&
      !sidecars.includes(`${stem}.json`) &&
      !texts.some((text) => text.includes(`"${stem}"`) || text.includes(f))
    );
  };
  return files.filter((f) => sidecars.includes(f) || isOrphan(f));
}

function show(error: number): string {
  if (Number.isNaN(error)) return '-';
  return error === 0 ? '0' : error.toExponential(1);
}
