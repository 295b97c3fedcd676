import { openCheckpoint } from '@flamingo-ts/checkpoint';
import type { FrozenPrecision, Random } from '@flamingo-ts/kernels';
import { checkVocabulary, loadTokenizer, type Tokenizer } from '@flamingo-ts/lm-core';
import { familyOf, transformerConfig } from './families';
import type { HFConfigJson } from './hf-config';
import { initTransformer, Transformer, transformerShapes } from './transformer';
import { readTransformer, type ReadOptions } from './weights';

/** A language model as it was published. */
export interface PretrainedLM {
  readonly lm: Transformer;
  /** Of the folder's tokenizer.json; absent where there is none. */
  readonly tokenizer: Tokenizer | undefined;
  /** Tokens that end a text: `eos_token_id` of generation_config.json, or else of config.json. */
  readonly stopTokens: readonly number[];
}

/**
 * Loads a language model from a folder as Hugging Face's transformers write it: config.json, model.safetensors (one file,
 * or shards with their index), and tokenizer.json and generation_config.json where they are there.
 *
 * @param folder path of the folder; Node only, in a browser use `causalLMFromState`
 * @throws Error naming the file and what about it is wrong; for an unknown `model_type` the ones that are known
 */
export async function loadCausalLM(folder: string, options: ReadOptions = {}): Promise<PretrainedLM> {
  const file = (name: string) => `${folder.replace(/\/+$/, '')}/${name}`;
  const json = await readJson(file('config.json'));
  if (!json) throw new Error(`${file('config.json')} does not exist. Give a folder of a model, not a file of it.`);
  const what = file('config.json');
  const config = transformerConfig(json, what);
  const tokenizerJson = await readJson(file('tokenizer.json'));
  const tokenizer = tokenizerJson && loadTokenizer(tokenizerJson, file('tokenizer.json'));
  if (tokenizer) checkVocabulary(tokenizer, { vocabSize: options.vocabSize ?? config.vocabSize });
  const generation = await readJson(file('generation_config.json'));
  const checkpoint = await openCheckpoint(folder);
  try {
    const lm = await readTransformer(config, familyOf(json, what).names(config), checkpoint, options, folder);
    return { lm, tokenizer, stopTokens: endsOf(generation) ?? endsOf(json) ?? [] };
  } finally {
    await checkpoint.close();
  }
}

/**
 * The same from what was fetched already: the content of a config.json, and tensors by the names of the checkpoint, as
 * `parseSafetensors` gives them.
 *
 * @param what named in errors: where both came from
 */
export async function causalLMFromState(
  json: HFConfigJson,
  state: Readonly<Record<string, { readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>>,
  options: ReadOptions = {},
  what = 'causalLMFromState',
): Promise<Transformer> {
  const config = transformerConfig(json, what);
  const weights = {
    names: Object.keys(state),
    info: (name: string) => state[name]!,
    read: async (name: string) => state[name]!,
  };
  return readTransformer(config, familyOf(json, what).names(config), weights, options, what);
}

/** A language model with fresh weights, of the architecture that the content of a config.json says. */
export function initCausalLM(json: HFConfigJson, random: Random): Transformer {
  const config = transformerConfig(json);
  return new Transformer(config, initTransformer(config, random));
}

/** The same for use without training, as `freeze` leaves it; its matrices are never there all at once in float32. */
export async function initFrozenCausalLM(
  json: HFConfigJson,
  random: Random,
  precision: FrozenPrecision = 'float32',
): Promise<Transformer> {
  const config = transformerConfig(json);
  return new Transformer(config, initTransformer(config, random, precision)).freeze(precision);
}

/** Shape of every parameter of such a model by name, without making any: what counts parameters and plans memory. */
export function causalLMShapes(json: HFConfigJson): Record<string, readonly number[]> {
  return transformerShapes(transformerConfig(json));
}

function endsOf(json: HFConfigJson | undefined): number[] | undefined {
  const ends = json?.['eos_token_id'] ?? undefined;
  return ends === undefined ? undefined : ([ends].flat() as number[]);
}

/** Content of a JSON file; undefined when it is not there. */
async function readJson(path: string): Promise<HFConfigJson | undefined> {
  if (typeof process !== 'object' || !process.getBuiltinModule) {
    throw new Error('loadCausalLM needs the files of Node. In a browser, fetch them and call causalLMFromState.');
  }
  // Asked for by name, so that bundles for the browser neither contain nor miss it.
  const { readFile } = process.getBuiltinModule('node:fs/promises');
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return JSON.parse(text) as HFConfigJson;
  } catch (cause) {
    throw new Error(`${path} is not valid JSON (${(cause as Error).message}). Fetch the file again.`, { cause });
  }
}
