import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
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

  it('names an unknown key and the one that was probably meant', () => {
    const value = changed((c) =>
      Object.assign((c as never as { vision: { train: object } }).vision.train, { stepz: 3 }),
    );
    expect(() => parseConfig('my.yaml', value)).toThrow(
      /my\.yaml.*\n.*vision\.train\.stepz: unknown key, did you mean steps\?/,
    );
  });

  it('lists what is known where nothing is near', () => {
    const value = changed((c) => Object.assign(c, { telescope: 1 }));
    expect(() => parseConfig('my.yaml', value)).toThrow(
      /telescope: unknown key, expected one of: seed, backend, precision, out/,
    );
    const short = changed((c) => Object.assign(c, { nope: 1 }));
    expect(() => parseConfig('my.yaml', short)).toThrow(/nope: unknown key, expected one of: seed/);
  });

  it('says what was expected and what came', () => {
    const value = changed((c) => Object.assign((c as never as { lm: object }).lm, { batch: 'many' }));
    expect(() => parseConfig('my.yaml', value)).toThrow(/lm\.batch: expected number, got "many"/);
    const unknown = changed((c) => Object.assign(c, { data: { kind: 'emoji', unseenStyle: 'round' }, backend: 'gpu' }));
    expect(() => parseConfig('my.yaml', unknown)).toThrow(
      /backend: expected one of "auto".*got "gpu"\n.*data\.unseenStyle: expected one of "outlined"\|"flat"\|"sketch", got "round"/,
    );
    const pathless = changed((c) => Object.assign(c, { data: { kind: 'folder' } }));
    expect(() => parseConfig('my.yaml', pathless)).toThrow(/data\.path: expected string, got nothing/);
  });

  it('names every bad key at once', () => {
    const value = changed((c) => {
      Object.assign((c as never as { lm: object }).lm, { batch: 0 });
      Object.assign((c as never as { eval: object }).eval, { shots: [] });
    });
    expect(() => parseConfig('my.yaml', value)).toThrow(/lm\.batch[\s\S]*eval\.shots/);
  });

  it('checks sizes that belong together', () => {
    const value = changed((c) =>
      Object.assign((c as never as { vision: { model: object } }).vision.model, { depths: [1, 2] }),
    );
    expect(() => parseConfig('my.yaml', value)).toThrow(/widths and depths must have one entry each, got 3 and 2/);
  });

  it('knows the side of the emoji images', () => {
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

  it('needs at least one data set', () => {
    const value = changed((c) => Object.assign((c as never as { flamingo: object }).flamingo, { datasets: {} }));
    expect(() => parseConfig('my.yaml', value)).toThrow(/at least one of pages, pairs, descriptions, clips/);
  });

  it('sets dotted keys', () => {
    expect(loadConfig(shipped('quickstart'), { 'flamingo.train.steps': 7, out: 'x' })).toMatchObject({
      out: 'x',
      flamingo: { train: { steps: 7 } },
    });
  });

  it('tells a missing file from a broken one', () => {
    expect(() => loadConfig(join(folder, 'none.yaml'))).toThrow(/none\.yaml: there is no such file/);
    const broken = join(folder, 'broken.yaml');
    writeFileSync(broken, 'out: [1,\nseed: }');
    expect(() => loadConfig(broken)).toThrow(/broken\.yaml: not valid YAML/);
  });
});
