import { expectNoLfsPointer, openCheckpoint, parseJson, type OpenOptions } from '@flamingo-ts/checkpoint';
import type { FrozenPrecision, Random } from '@flamingo-ts/kernels';
import {
  checkVocabulary,
  loadTokenizer,
  sentencePieceTokenizer,
  withSpecialTokens,
  type Tokenizer,
  type TokenizerJson,
} from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import { familyOf, transformerConfig } from './families';
import type { HFConfigJson } from './hf-config';
import { initTransformer, Transformer, transformerShapes } from './transformer';
import { readTransformer, type ReadOptions } from './weights';

/** A language model loaded from a folder. */
export interface PretrainedLM {
  readonly lm: Transformer;
  /** From the folder's tokenizer.json or SentencePiece tokenizer.model; undefined if there is neither. */
  readonly tokenizer: Tokenizer | undefined;
  /** Tokens that end a text: `eos_token_id` of generation_config.json or config.json. */
  readonly stopTokens: readonly number[];
}

/** Options of `loadCausalLM`. */
export interface FolderOptions extends ReadOptions {
  /**
   * Special tokens to add to the tokenizer, such as `<image>`. Embedding and head get new rows for those for which there are
   * no spare rows.
   */
  readonly addTokens?: readonly string[];
}

/**
 * Loads a language model from a Hugging Face folder: config.json, model.safetensors (one file, or shards with an index), and
 * optionally tokenizer.json (or tokenizer.model) and generation_config.json.
 *
 * @param folder path of the folder; Node only, in a browser use `causalLMFromState`
 * @throws Error naming the file and the problem; for an unknown `model_type` it lists those supported
 */
export async function loadCausalLM(folder: string, options: FolderOptions = {}): Promise<PretrainedLM> {
  const file = (name: string) => `${folder.replace(/\/+$/, '')}/${name}`;
  const json = await readJson(file('config.json'));
  if (!json)
    throw new Error(`${file('config.json')} does not exist. Pass the folder of a model, not one of its files.`);
  const what = file('config.json');
  const config = transformerConfig(json, what);
  const tokenizerJson = await readTokenizerJson(file);
  const tokenizer = tokenizerJson && withTokens(tokenizerJson, options.addTokens, file('tokenizer.json'));
  if (options.addTokens && !tokenizer) {
    throw new Error(
      `${folder}: addTokens requires a tokenizer.json or tokenizer.model in the folder, got neither. ` +
        'Add one, or omit addTokens and set vocabSize for tokens that you number yourself.',
    );
  }
  const { vocabSize = Math.max(config.vocabSize, options.addTokens ? tokenizer!.vocabSize : 0) } = options;
  if (tokenizer) checkVocabulary(tokenizer, { vocabSize });
  const generation = await readJson(file('generation_config.json'));
  // A backend may map files into memory; otherwise `openCheckpoint` reads them.
  const { mapFile: map } = tf.backend() as unknown as { readonly mapFile?: OpenOptions['map'] };
  const checkpoint = await openCheckpoint(folder, { map });
  try {
    const lm = await readTransformer(
      config,
      familyOf(json, what).names(config),
      checkpoint,
      { ...options, vocabSize },
      folder,
    );
    return { lm, tokenizer, stopTokens: endsOf(generation) ?? endsOf(json) ?? [] };
  } finally {
    await checkpoint.close();
  }
}

/**
 * Like `loadCausalLM`, from data in memory: the content of a config.json, and tensors by their names in the checkpoint, as
 * `parseSafetensors` returns them.
 *
 * @param what where both came from, for error messages
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

/** A language model with new weights, of the architecture in a config.json. */
export function initCausalLM(json: HFConfigJson, random: Random): Transformer {
  const config = transformerConfig(json);
  return new Transformer(config, initTransformer(config, random));
}

/** Like `initCausalLM`, frozen. Matrices are packed one by one, so that the model never exists as a whole in float32. */
export async function initFrozenCausalLM(
  json: HFConfigJson,
  random: Random,
  precision: FrozenPrecision = 'float32',
): Promise<Transformer> {
  const config = transformerConfig(json);
  return new Transformer(config, initTransformer(config, random, precision)).freeze(precision);
}

/** Shape of every parameter by name, without allocating any, for counting parameters and planning memory. */
export function causalLMShapes(json: HFConfigJson): Record<string, readonly number[]> {
  return transformerShapes(transformerConfig(json));
}

/** The tokenizer of a file with additional special tokens. */
function withTokens(json: HFConfigJson, tokens: readonly string[] = [], what: string): Tokenizer {
  // Loaded without the tokens first, for its error messages.
  const tokenizer = loadTokenizer(json, what);
  return tokens.length > 0
    ? loadTokenizer(withSpecialTokens(json as unknown as TokenizerJson, tokens), what)
    : tokenizer;
}

function endsOf(json: HFConfigJson | undefined): number[] | undefined {
  const ends = json?.['eos_token_id'] ?? undefined;
  return ends === undefined ? undefined : ([ends].flat() as number[]);
}

/** From tokenizer.json or tokenizer.model; undefined if there is neither. */
async function readTokenizerJson(file: (name: string) => string): Promise<HFConfigJson | undefined> {
  const json = await readJson(file('tokenizer.json'));
  if (json) return json;
  const model = await readBytes(file('tokenizer.model'));
  if (!model) return undefined;
  // Hugging Face's LlamaTokenizer adds <s> unless its configuration says otherwise.
  const { add_bos_token: adds = true, bos_token: bos = '<s>' } = (await readJson(file('tokenizer_config.json'))) ?? {};
  const name = typeof bos === 'string' ? bos : (bos as { readonly content?: string } | null)?.content;
  return { ...sentencePieceTokenizer(model, file('tokenizer.model'), adds ? name : undefined) };
}

/** Content of a JSON file; undefined if it does not exist. */
async function readJson(path: string): Promise<HFConfigJson | undefined> {
  const bytes = await readBytes(path);
  return bytes && (parseJson(bytes, path) as HFConfigJson);
}

/** Content of a file; undefined if it does not exist. */
async function readBytes(path: string): Promise<Uint8Array | undefined> {
  if (typeof process !== 'object' || !process.getBuiltinModule) {
    throw new Error(
      'loadCausalLM requires the file system of Node. In a browser, fetch the files and call causalLMFromState.',
    );
  }
  // Looked up by name, so that browser bundles neither include it nor fail without it.
  const { readFile } = process.getBuiltinModule('node:fs/promises');
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (bytes) expectNoLfsPointer(bytes, path);
  return bytes;
}
