import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { registerDataKind } from '../data/data-kinds';
import { emojiDataKind } from '../quickstart/emoji/data-kind';
import { loadConfig, parseConfig } from './config';

registerDataKind(emojiDataKind);

const folder = mkdtempSync(join(tmpdir(), 'flamingo-config-'));
afterAll(() => rmSync(folder, { recursive: true }));
const shipped = (name: string) => join(import.meta.dirname, '..', '..', 'configs', `${name}.yaml`);

function changed(change: (config: Record<string, never>) => void): unknown {
  const config = parse(readFileSync(shipped('quickstart'), 'utf8')) as Record<string, never>;
  change(config);
  return config;
}

describe('configuration', () => {
  it.each(['quickstart', 'quickstart-small'])('%s.yaml is valid', (name) => {
    expect(loadConfig(shipped(name)).data.kind).toBe('emoji');
  });

  it('names an unknown key and suggests a similar one', () => {
    const value = changed((c) =>
      Object.assign((c as never as { vision: { train: object } }).vision.train, { stepz: 3 }),
    );
    expect(() => parseConfig('my.yaml', value)).toThrow(
      /my\.yaml.*\n.*vision\.train\.stepz: unknown key, did you mean steps\?/,
    );
  });

  it('lists the known keys if none is similar', () => {
    const value = changed((c) => Object.assign(c, { telescope: 1 }));
    expect(() => parseConfig('my.yaml', value)).toThrow(
      /telescope: unknown key, expected one of: seed, backend, precision, out/,
    );
    const short = changed((c) => Object.assign(c, { nope: 1 }));
    expect(() => parseConfig('my.yaml', short)).toThrow(/nope: unknown key, expected one of: seed/);
  });

  it('reports the expected and the actual value', () => {
    const value = changed((c) => Object.assign((c as never as { lm: object }).lm, { batch: 'many' }));
    expect(() => parseConfig('my.yaml', value)).toThrow(/lm\.batch: expected a number, got "many"/);
    const unknown = changed((c) => Object.assign(c, { data: { kind: 'emoji', unseenStyle: 'round' }, backend: 'gpu' }));
    expect(() => parseConfig('my.yaml', unknown)).toThrow(
      /backend: expected one of auto, .*got "gpu"\n.*data\.unseenStyle: expected one of outlined, flat, sketch, got "round"/,
    );
    const pathless = changed((c) => Object.assign(c, { data: { kind: 'folder' } }));
    expect(() => parseConfig('my.yaml', pathless)).toThrow(/data\.path: expected a string, got nothing/);
  });

  it('names all wrong keys', () => {
    const value = changed((c) => {
      Object.assign((c as never as { lm: object }).lm, { batch: 0 });
      Object.assign((c as never as { eval: object }).eval, { shots: [] });
    });
    expect(() => parseConfig('my.yaml', value)).toThrow(/lm\.batch[\s\S]*eval\.shots/);
  });

  it('checks lists that must have the same length', () => {
    const value = changed((c) =>
      Object.assign((c as never as { vision: { model: object } }).vision.model, { depths: [1, 2] }),
    );
    expect(() => parseConfig('my.yaml', value)).toThrow(/widths and depths must have one entry each, got 3 and 2/);
  });

  it('requires the size of the emoji images', () => {
    const sized = (imageSize: number, data: object) =>
      changed((c) => {
        Object.assign((c as never as { vision: { model: object } }).vision.model, { imageSize });
        Object.assign(c, { data });
      });
    expect(() => parseConfig('my.yaml', sized(64, { kind: 'emoji' }))).toThrow(
      /vision\.model\.imageSize must be 48, .*emoji images, got 64/,
    );
    expect(parseConfig('my.yaml', sized(64, { kind: 'folder', path: 'x' })).vision.model.imageSize).toBe(64);
  });

  it('checks the validation split', () => {
    const data = { kind: 'folder', path: 'x' };
    const validated = (validation: object, more: object = { data }) =>
      parseConfig(
        'my.yaml',
        changed((c) => Object.assign(c, { validation, ...more })),
      );
    expect(validated({ share: 0.1 }).validation).toEqual({ share: 0.1, every: 20 });
    expect(() => validated({ share: 1, every: 0, patience: 1.5 })).toThrow(
      /validation\.share: expected a number below 1, got 1\n.*every: expected a number above 0, got 0\n.*patience: expected a whole number, got 1\.5/,
    );
    expect(() => validated({})).toThrow(/validation requires either share or path, got neither\. Set for example/);
    expect(() => validated({ share: 0.1, path: 'x' })).toThrow(/either share or path, got both/);
    expect(() => validated({ share: 0.1 }, {})).toThrow(
      /validation requires images of your own, data of kind folder or shards, got kind emoji/,
    );
    const flamingo = {
      ...validated({ share: 0.1 }).flamingo,
      datasets: { pages: { weight: 1, batch: 2, maxTokens: 8 } },
    };
    expect(() => validated({ share: 0.1 }, { data, flamingo })).toThrow(
      /validation measures pairs, so flamingo\.datasets must name pairs or descriptions, got pages/,
    );
    const file = join(folder, 'split.yaml');
    writeFileSync(file, stringify(changed((c) => Object.assign(c, { data, validation: { path: 'held.jsonl' } }))));
    expect(loadConfig(file).validation).toEqual({ path: join(folder, 'held.jsonl'), every: 20 });
  });

  it('checks the augmentation, which requires images of your own', () => {
    const data = { kind: 'folder', path: 'x' };
    const augmented = (augmentation: object, more: object = { data }) =>
      parseConfig(
        'my.yaml',
        changed((c) => Object.assign(c, { augmentation, ...more })),
      );
    expect(augmented({ crop: 0.5, color: 0.2, flip: 0.5 }).augmentation).toEqual({ crop: 0.5, color: 0.2, flip: 0.5 });
    expect(() => augmented({ crop: 0, color: 1.5, flip: true, hue: 0.1 })).toThrow(
      /augmentation\.crop: expected a number above 0, got 0\n.*color: expected a number of at most 1, got 1\.5\n.*flip: expected a number, got true\n.*augmentation\.hue: unknown key, expected one of: crop, color, flip/,
    );
    expect(() => augmented({ flip: 0.5 }, {})).toThrow(
      /augmentation requires images of your own, data of kind folder or shards, got kind emoji/,
    );
  });

  it('requires at least one dataset', () => {
    const value = changed((c) => Object.assign((c as never as { flamingo: object }).flamingo, { datasets: {} }));
    expect(() => parseConfig('my.yaml', value)).toThrow(/at least one of pages, pairs, descriptions, clips/);
  });

  it('sets dotted keys', () => {
    expect(loadConfig(shipped('quickstart'), { 'flamingo.train.steps': 7, out: 'x' })).toMatchObject({
      out: 'x',
      flamingo: { train: { steps: 7 } },
    });
  });

  it('distinguishes a missing file from an invalid one', () => {
    expect(() => loadConfig(join(folder, 'none.yaml'))).toThrow(/none\.yaml: there is no such file/);
    const broken = join(folder, 'broken.yaml');
    writeFileSync(broken, 'out: [1,\nseed: }');
    expect(() => loadConfig(broken)).toThrow(/broken\.yaml: not valid YAML/);
  });

  it.each(['__proto__.polluted', 'constructor.prototype.polluted', '__proto__', 'a..b', ''])(
    'rejects --set %s',
    (key) => {
      expect(() => loadConfig(shipped('quickstart'), { [key]: 1 })).toThrow(
        /quickstart\.yaml: --set .*is not a key of a configuration/,
      );
      expect(({} as { polluted?: number }).polluted).toBeUndefined();
    },
  );

  it('rejects --set below a value, and beyond the end of a list', () => {
    expect(() => loadConfig(shipped('quickstart'), { 'lm.batch.size': 1 })).toThrow(
      /--set lm\.batch\.size cannot be set: lm\.batch is 20, not a section/,
    );
    expect(() => loadConfig(shipped('quickstart'), { 'vision.model.widths.3': 1 })).toThrow(
      /--set vision\.model\.widths\.3 requires the index of an entry, 0 to 2, after vision\.model\.widths/,
    );
    expect(loadConfig(shipped('quickstart'), { 'vision.model.widths.1': 64 }).vision.model.widths).toEqual([
      48, 64, 192,
    ]);
  });

  const bomb =
    'a: &a [x,x,x,x,x,x,x,x,x]\n' +
    'bcdef'.replace(/./g, (to) => {
      const from = String.fromCharCode(to.charCodeAt(0) - 1);
      return `${to}: &${to} [${Array(9).fill(`*${from}`).join(',')}]\n`;
    });
  it.each([
    ['a number', '5', /expected keys with values, for example "seed: 0", got 5/],
    ['a text', 'a string', /expected keys with values.*got "a string"/],
    ['a list', '- a', /expected keys with values.*got \[ 'a' \]/],
    ['a list that contains itself', '&a [*a]', /expected keys with values/],
    ['a mapping that contains itself', 'lm: &a { model: *a }', /lm\.model\.model: unknown key/],
    ['aliases of aliases', bomb, /not valid YAML.*alias.*Write the values out/],
    ['an unknown alias', 'a: *nope', /not valid YAML/],
    ['two documents', 'a: 1\n---\nb: 2', /not valid YAML/],
    ['deep brackets', '['.repeat(20_000), /nested more than 64 levels deep/],
    ['deep indentation', Array.from({ length: 300 }, (_, i) => `${' '.repeat(i)}a:`).join('\n'), /nested more than 64/],
    ['deep keys', '? '.repeat(5000), /nested more than 64/],
    ['deep lists', '- '.repeat(5000), /nested more than 64/],
    ['a large file', '#'.repeat(2 ** 20 + 1), /larger than 1048576 bytes/],
    ['a prototype', '__proto__: { polluted: 1 }', /__proto__: unknown key/],
    ['infinity', 'seed: 1e999', /seed: .*got null|seed: expected .*got/],
  ])('rejects a file with %s', (_, text, message) => {
    const file = join(folder, 'odd.yaml');
    writeFileSync(file, text);
    expect(() => loadConfig(file, { out: 'x' })).toThrow(message);
  });

  it.each([
    ['lm.train.beta1', 1, /lm\.train\.beta1: expected a number below 1, got 1/],
    ['lm.train.beta2', 1, /lm\.train\.beta2: expected a number below 1, got 1/],
    ['lm.train.learningRate', 1e6, /lm\.train\.learningRate: expected a number of at most 1, got 1000000/],
    ['lm.train.learningRate', 0, /lm\.train\.learningRate: expected a number above 0, got 0/],
    ['lm.train.weightDecay', 1000, /lm\.train\.weightDecay must be below 1 \/ learningRate = 400, got 1000/],
    ['lm.train.weightDecay', -1, /weightDecay: expected a number of at least 0/],
    ['vision.labelSmoothing', 1, /labelSmoothing: expected a number below 1/],
    ['flamingo.datasets.pages.weight', 1e-300, /weight: expected a number of at least 0.000001/],
    ['lm.model.outputScale', 1e300, /outputScale: expected a number of at most 1000/],
    ['vision.batch', 1e15, /vision\.batch: expected a number of at most 1048576/],
    ['lm.model.numLayers', 1e9, /numLayers: expected a number of at most/],
    ['flamingo.gateWalk.by', 1e30, /gateWalk\.by: expected a number of at most 1/],
    ['out', 'a\0b', /out: expected a path/],
  ])('checks the range of %s: %j', (key, value, message) => {
    expect(() => loadConfig(shipped('quickstart'), { [key]: value })).toThrow(message);
  });

  describe('with only the keys that a command requires', () => {
    const { out, data, vision, lm, flamingo } = changed(() => undefined) as Record<string, Record<string, unknown>>;
    const own = { out, data: { kind: 'folder', path: 'my-data' } };

    it('is valid', () => {
      expect(data).toEqual({ kind: 'emoji' });
      expect(parseConfig('my.yaml', { ...own, lm }, 'pretrain-lm').lm.batch).toBe(20);
      expect(parseConfig('my.yaml', { ...own, vision }, 'pretrain-vision').flamingo.framesPerClip).toBe(4);
      const published = { pretrained: 'gpt2', precision: 'bfloat16' };
      expect(parseConfig('my.yaml', { ...own, vision, lm: published, flamingo }, 'train').lm).toMatchObject(published);
      expect(parseConfig('my.yaml', { ...own, vision, lm: published, flamingo })).toMatchObject({
        eval: { shots: [0, 4] },
      });
      const { model, jointSize } = vision!;
      const { resampler, xattn } = flamingo!;
      const asked = { ...own, vision: { model, jointSize }, lm: published, flamingo: { resampler, xattn } };
      expect(parseConfig('my.yaml', asked, 'generate').vision.jointSize).toBe(128);
    });

    it('names the missing ones', () => {
      expect(() => parseConfig('my.yaml', { ...own, vision, flamingo }, 'train')).toThrow(
        /lm\.model: required by train, got nothing\n/,
      );
      expect(() => parseConfig('my.yaml', { ...own, vision }, 'pretrain-lm')).toThrow(
        /lm\.model: required by pretrain-lm, got nothing\n.*lm\.tokenizerPages: required[\s\S]*lm\.train: required/,
      );
      expect(() => parseConfig('my.yaml', own)).toThrow(
        /vision\.jointSize: required by pretrain-vision, train, eval, generate/,
      );
    });

    it('names an unknown key even in a section that is not required', () => {
      expect(() => parseConfig('my.yaml', { ...own, lm, flamingo: { strategi: 'merged' } }, 'pretrain-lm')).toThrow(
        /flamingo\.strategi: unknown key, did you mean strategy\?/,
      );
    });
  });
});
