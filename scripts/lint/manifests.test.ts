import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly repository: { readonly type: string; readonly url: string; readonly directory: string };
  readonly homepage: string;
  readonly bugs: string;
  readonly keywords: readonly string[];
  readonly nx: { readonly tags: readonly string[] };
  readonly dependencies?: Record<string, string>;
  readonly peerDependencies?: Record<string, string>;
  readonly peerDependenciesMeta?: Record<string, { readonly optional: boolean }>;
}

const packages = ['packages', 'apps'].flatMap((parent) =>
  readdirSync(path.join(root, parent)).map((name) => {
    const folder = path.join(root, parent, name);
    const json = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest;
    const sources = readdirSync(path.join(folder, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((file) => /\.[jt]s$/.test(file) && !file.endsWith('.test.ts'))
      .map((file) => readFileSync(path.join(folder, 'src', file), 'utf8'))
      .join('\n');
    return { ...json, sources, folder: `${parent}/${name}` };
  }),
);

/** Optional peers, such as backends and queues, are imported on demand. An application may depend on them without importing them. */
const optional = packages.flatMap(({ peerDependenciesMeta }) => Object.keys(peerDependenciesMeta ?? {}));

describe.each(packages)('$name', ({ sources, dependencies = {}, peerDependencies = {}, nx, ...manifest }) => {
  it('uses all of its dependencies', () => {
    const own = Object.keys(manifest.peerDependenciesMeta ?? {});
    const unused = Object.keys({ ...dependencies, ...peerDependencies }).filter(
      (name) =>
        !sources.includes(`'${name}'`) &&
        !sources.includes(`'${name}/`) &&
        !(nx.tags.includes('layer:app') ? optional : own).includes(name),
    );
    expect(unused).toEqual([]);
  });

  it('names its repository and homepage', () => {
    const { repository, homepage, bugs, keywords, folder } = manifest;
    expect(repository).toEqual({ type: 'git', url: expect.stringMatching(/^git\+https:.*\.git$/), directory: folder });
    expect(homepage).toBe(`${repository.url.slice('git+'.length, -'.git'.length)}/tree/main/${folder}#readme`);
    expect(bugs).toMatch(/\/issues$/);
    expect(keywords.length).toBeGreaterThan(3);
  });

  it('lets the application install TensorFlow.js', () => {
    if (!nx.tags.includes('layer:app')) expect(Object.keys(dependencies)).not.toContain('@tensorflow/tfjs-core');
  });
});

it('all packages require the same version of a shared dependency', () => {
  const wanted = new Map<string, Set<string>>();
  for (const { dependencies } of packages) {
    for (const [name, range] of Object.entries(dependencies ?? {})) {
      wanted.set(name, (wanted.get(name) ?? new Set()).add(range));
    }
  }
  expect([...wanted].filter(([, ranges]) => ranges.size > 1)).toEqual([]);
});
