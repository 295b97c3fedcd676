import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import {
  parseSafetensors,
  readState,
  writeSafetensors,
  writeSharded,
  type FloatTensor,
  type WriteOptions,
} from '@flamingo-ts/checkpoint';
import { stateOf } from '@flamingo-ts/kernels';
import { hiddenStates, trainByteLevelBPE } from '@flamingo-ts/lm-core';
import { describeBackends, expectClose, expectNoLeak, relativeError } from '@flamingo-ts/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { causalLMFromState, loadCausalLM, type Transformer } from './index';

const reference = (name: string) => fileURLToPath(new URL(`../test/reference/${name}`, import.meta.url));
const read = async (name: string) => JSON.parse(await readFile(join(reference(name), 'config.json'), 'utf8'));
const tokens = () => tf.tensor2d([3, 1, 4, 1, 5, 9, 2, 6], [2, 4], 'int32');
const logitsOf = (lm: Transformer) => tf.tidy(() => lm.logits(hiddenStates(lm, tokens(), {})));

let scratch: string;
beforeAll(async () => void (scratch = await mkdtemp(join(tmpdir(), 'lm-hf-'))));
afterAll(() => rm(scratch, { recursive: true }));

/** A folder with the config of a reference, its weights as `change` returns them, and more files. */
async function folderOf(
  name: string,
  change: (state: Record<string, FloatTensor>) => Record<string, FloatTensor> = (state) => state,
  files: Readonly<Record<string, unknown>> = {},
  options: WriteOptions = {},
): Promise<string> {
  const folder = await mkdtemp(join(scratch, 'model-'));
  for (const [file, content] of Object.entries({ 'config.json': await read(name), ...files })) {
    await writeFile(join(folder, file), typeof content === 'string' ? content : JSON.stringify(content));
  }
  await writeSafetensors(join(folder, 'model.safetensors'), change(await readState(reference(name))), options);
  return folder;
}

const renamed = (state: Record<string, FloatTensor>, rename: (name: string) => string) =>
  Object.fromEntries(Object.entries(state).map(([name, tensor]) => [rename(name), tensor]));

describeBackends('loadCausalLM', (backend) => {
  it('reads one file, shards, bytes in memory, and names without the prefix of the model', async () => {
    for (const name of ['gpt2', 'opt-postln-proj', 'llama-gqa-rope3']) {
      const { lm } = await loadCausalLM(reference(name));
      const want = await stateOf(lm.params);
      lm.dispose();
      const sharded = await folderOf(name);
      await rm(join(sharded, 'model.safetensors'));
      await writeSharded(sharded, await readState(reference(name)), { maxShardBytes: 30_000 });
      const bare = await folderOf(name, (state) => renamed(state, (key) => key.replace(/^(transformer|model)\\./, '')));
      const bytes = await readFile(join(reference(name), 'model.safetensors'));
      const others = [
        (await loadCausalLM(sharded)).lm,
        (await loadCausalLM(`${bare}/`)).lm,
        await causalLMFromState(await read(name), parseSafetensors(bytes).tensors),
      ];
      for (const other of others) {
        expect(await stateOf(other.params)).toEqual(want);
        other.dispose();
      }
    }
  });

  it('packs while it reads, with the same result as freeze, from float32 and from bfloat16', async () => {
    for (const name of ['gpt2', 'gpt-neox', 'llama-gqa-rope3']) {
      const rounded = await folderOf(name, undefined, {}, { floats: 'BF16' });
      for (const folder of [reference(name), rounded]) {
        for (const precision of ['float32', 'bfloat16', 'int8'] as const) {
          await expectNoLeak(async () => {
            const { lm: packed } = await loadCausalLM(folder, { freeze: precision });
            const frozen = await (await loadCausalLM(folder)).lm.freeze(precision);
            const [a, b] = [logitsOf(packed), logitsOf(frozen)];
            expectClose(a, b, { atol: 0 });
            tf.dispose([a, b]);
            packed.dispose();
            frozen.dispose();
          });
        }
      }
    }
  });

  it('has nearly the same logits in int8 as in float32', async () => {
    for (const name of ['gpt2', 'gpt-neox', 'llama-gqa-rope3']) {
      const { lm } = await loadCausalLM(reference(name));
      const { lm: narrow } = await loadCausalLM(reference(name), { freeze: 'int8' });
      const [a, b] = [logitsOf(narrow), logitsOf(lm)];
      const error = relativeError(a, b);
      expect(error).toBeLessThan(0.05);
      if (backend === 'native') expect(error).toBeGreaterThan(1e-4);
      tf.dispose([a, b]);
      narrow.dispose();
      lm.dispose();
    }
  });

  it('adds rows for new tokens, whose logit is the mean of the others', async () => {
    for (const name of ['gpt2', 'gpt-neox', 'opt-postln-proj']) {
      const { lm } = await loadCausalLM(reference(name));
      const { lm: larger } = await loadCausalLM(reference(name), { vocabSize: 98 });
      expect(larger.vocabSize).toBe(98);
      tf.tidy(() => {
        const [a, b] = [logitsOf(lm), logitsOf(larger)];
        expectClose(tf.slice(b, [0, 0, 0], [2, 4, 96]), a, { atol: 1e-5 });
        expectClose(tf.slice(b, [0, 0, 97], [2, 4, 1]), tf.mean(a, 2, true), { atol: 1e-5 });
      });
      lm.dispose();
      larger.dispose();
    }
    await expect(loadCausalLM(reference('gpt2'), { vocabSize: 90 })).rejects.toThrow(/at least.*96, got 90/);
  });

  it('reads bfloat16', async () => {
    const folder = await folderOf('gpt-neox');
    const state = await readState(reference('gpt-neox'));
    await writeSafetensors(join(folder, 'model.safetensors'), state, { floats: 'BF16' });
    const [{ lm }, { lm: rounded }] = [await loadCausalLM(reference('gpt-neox')), await loadCausalLM(folder)];
    tf.tidy(() => {
      const error = relativeError(logitsOf(rounded), logitsOf(lm));
      expect(error).toBeGreaterThan(1e-4);
      expect(error).toBeLessThan(2e-2);
    });
    lm.dispose();
    rounded.dispose();
  });

  it('ignores the masks and tables in older files, but no parameter', async () => {
    const buffer = { shape: [1], data: Float32Array.of(1) };
    const folder = await folderOf('gpt-neox', ({ 'embed_out.weight': head, ...state }) => ({
      ...state,
      'lm_head.weight': head!,
      'gpt_neox.layers.0.attention.bias': buffer,
      'gpt_neox.layers.1.attention.masked_bias': buffer,
      'gpt_neox.layers.1.attention.rotary_emb.inv_freq': buffer,
    }));
    (await loadCausalLM(folder)).lm.dispose();
    const gpt2 = await folderOf('gpt2', (state) => ({
      ...state,
      'transformer.h.0.attn.bias': buffer,
      'h.1.attn.masked_bias': buffer,
      'lm_head.weight': state['transformer.wte.weight']!,
    }));
    (await loadCausalLM(gpt2)).lm.dispose();
    const without = await folderOf('gpt2', ({ 'transformer.h.0.attn.c_attn.bias': _, ...state }) => state);
    await expect(loadCausalLM(without)).rejects.toThrow(/missing \(1\): transformer.h.0.attn.c_attn.bias\. Fetch/);
  });

  it('lists everything that does not fit before it reads a weight', async () => {
    const stray = { shape: [1], data: Float32Array.of(1) };
    const folder = await folderOf(
      'opt-postln-proj',
      ({ 'model.decoder.layers.0.fc1.bias': _, 'model.decoder.project_in.weight': projection, ...state }) => ({
        ...state,
        'model.decoder.project_in.weight': { shape: [16, 32], data: projection!.data },
        stray,
      }),
    );
    const before = tf.memory().numTensors;
    await expect(loadCausalLM(folder)).rejects.toThrow(
      /the weights do not fit config.json. missing \(1\): model.decoder.layers.0.fc1.bias. unexpected \(1\): stray. wrong shape \(1\): model.decoder.project_in.weight: expected \[32, 16\], got \[16, 32\]/,
    );
    expect(tf.memory().numTensors).toBe(before);
  });

  it('frees its tensors when reading fails halfway', async () => {
    const state = parseSafetensors(await readFile(join(reference('gpt2'), 'model.safetensors'))).tensors;
    const last = Object.keys(state).at(-1)!;
    const failing = new Proxy(state, {
      get: (all, name) => {
        const tensor = all[name as string];
        if (name !== last || !tensor) return tensor;
        return { shape: tensor.shape, get data(): never { throw new Error('the disk is gone'); } }; // prettier-ignore
      },
    });
    const before = tf.memory().numTensors;
    await expect(causalLMFromState(await read('gpt2'), failing, { freeze: 'bfloat16' })).rejects.toThrow(
      /disk is gone/,
    );
    expect(tf.memory().numTensors).toBe(before);
  });

  it('reads JSON files as Python does, with a byte order mark, Infinity and NaN', async () => {
    const folder = await folderOf('gpt2');
    const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as object;
    const text = JSON.stringify({ ...config, max_grad: 'x', time_step: ['y'] });
    await writeFile(join(folder, 'config.json'), `\ufeff${text.replace('"x"', 'Infinity').replace('"y"', '0.0, NaN')}`);
    (await loadCausalLM(folder)).lm.dispose();
  });

  it('names every Git LFS pointer', async () => {
    const pointer =
      'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n';
    for (const name of ['tokenizer.model', 'tokenizer.json', 'model.safetensors', 'config.json']) {
      const folder = await folderOf('gpt2');
      await writeFile(join(folder, name), pointer);
      await expect(loadCausalLM(folder)).rejects.toThrow(
        new RegExp(`${name} is a Git LFS pointer, not the file itself`),
      );
    }
  });

  it('reads the tokenizer and the stop tokens', async () => {
    const tokenizerJson = trainByteLevelBPE(['one two'], { vocabSize: 257, specialTokens: ['<end>'] });
    const files = { 'tokenizer.json': tokenizerJson, 'generation_config.json': { eos_token_id: [3, 4] } };
    const folder = await folderOf('gpt2', undefined, files);
    await expect(loadCausalLM(folder)).rejects.toThrow(/tokenizer's 257 tokens, got vocabSize 96/);
    const { lm, tokenizer, stopTokens } = await loadCausalLM(folder, { vocabSize: 257 });
    expect(tokenizer!.decode(tokenizer!.encode('one two<end>', { parseSpecialTokens: true }))).toBe('one two<end>');
    expect(stopTokens).toEqual([3, 4]);
    lm.dispose();
    const plain = await loadCausalLM(reference('gpt2'));
    expect([plain.tokenizer, plain.stopTokens]).toEqual([undefined, [95]]);
    plain.lm.dispose();
    const endless = await loadCausalLM(reference('mosaic-gpt'));
    expect(endless.stopTokens).toEqual([]);
    endless.lm.dispose();
  });

  it('reads a SentencePiece model if there is no tokenizer.json', async () => {
    if (backend !== 'wasm') return;
    const folder = await folderOf('gpt2');
    const piece = (text: string, type: number) => {
      const name = new TextEncoder().encode(text);
      return [0x0a, name.length + 4, 0x0a, name.length, ...name, 0x18, type];
    };
    const pieces = [piece('<unk>', 2), piece('▁one', 1), piece('▁two', 1), piece('<s>', 3), piece('<go>', 3)];
    const model = Uint8Array.from(pieces.flat());
    await writeFile(join(folder, 'tokenizer.model'), model);
    const begun = async (config?: object) => {
      if (config) await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
      const { lm, tokenizer } = await loadCausalLM(folder);
      lm.dispose();
      expect(tokenizer!.encode('one two')).toEqual([1, 2]);
      return tokenizer!.encode('one two', { addSpecialTokens: true });
    };
    expect(await begun()).toEqual([3, 1, 2]);
    expect(await begun({ add_bos_token: false, bos_token: '<s>' })).toEqual([1, 2]);
    expect(await begun({ bos_token: { content: '<go>' } })).toEqual([4, 1, 2]);
    await expect(begun({ bos_token: '<begin>' })).rejects.toThrow(
      /expected the piece <begin>, which starts every text, got 5/,
    );
    await writeFile(join(folder, 'tokenizer_config.json'), '{}');
    await writeFile(join(folder, 'tokenizer.model'), model.subarray(1));
    await expect(loadCausalLM(folder)).rejects.toThrow(/tokenizer.model: expected a SentencePiece model/);
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(trainByteLevelBPE([], { vocabSize: 256 })));
    await expect(loadCausalLM(folder)).rejects.toThrow(/tokenizer's 256 tokens, got vocabSize 96/);
  });

  it('names the file that is missing or broken', async () => {
    if (backend !== 'wasm') return;
    await expect(loadCausalLM(join(scratch, 'none'))).rejects.toThrow(/none\/config.json does not exist/);
    const broken = await folderOf('gpt2', undefined, { 'config.json': '{' });
    await expect(loadCausalLM(broken)).rejects.toThrow(/config.json is not valid JSON/);
    const other = await folderOf('gpt2', undefined, { 'config.json': { model_type: 'bert' } });
    await expect(loadCausalLM(other)).rejects.toThrow(/config.json: model_type must be one of gpt2.*got "bert"/);
    const empty = await folderOf('gpt2');
    await rm(join(empty, 'model.safetensors'));
    await expect(loadCausalLM(empty)).rejects.toThrow(/model.safetensors does not exist/);
    await writeFile(join(empty, 'pytorch_model.bin'), '');
    await expect(loadCausalLM(empty)).rejects.toThrow(/pytorch_model.bin next to it is a pickle; save the model again/);
  });
});
