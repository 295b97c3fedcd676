import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { blocksOf, documents, onlyLacksOneDnn, root } from './readme-blocks';

// Inside the repository, so that examples can import the workspace's packages; ignored by git.
const work = path.join(root, '.cache', `readme-${process.pid}`);

interface Example {
  /** `packages/optim/README.md:12`, for messages. */
  readonly title: string;
  readonly file: string;
  readonly code: string;
}

const blocks = documents().flatMap((document) => blocksOf(path.join(root, document)).map((b) => ({ document, ...b })));

const examples: Example[] = blocks
  .filter(({ language }) => language === 'ts')
  .map(({ document, line, code }, i) => ({
    title: `${document}:${line}`,
    file: path.join(work, String(i), `${document.replace(/\W+/g, '-')}-line-${line}.mts`),
    code,
  }));

beforeAll(() => {
  for (const { file, code } of examples) {
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, code);
  }
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('examples in READMEs', () => {
  it('exist for every package', () => {
    const packages = documents().filter((document) => document.startsWith('packages/'));
    expect(packages).toHaveLength(readdirSync(path.join(root, 'packages')).length);
    expect(packages.filter((document) => !examples.some(({ title }) => title.startsWith(`${document}:`)))).toEqual([]);
  });

  it('type-check', () => {
    const { config } = ts.readConfigFile(path.join(root, 'tsconfig.json'), ts.sys.readFile);
    const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files: [] }, ts.sys, root);
    const files = examples.map(({ file }) => file);
    const program = ts.createProgram(files, { ...options, noUnusedLocals: false });
    const problems = files.flatMap((file, i) => {
      const source = program.getSourceFile(file);
      return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(
        ({ messageText }) => `${examples[i]!.title}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
      );
    });
    expect(problems).toEqual([]);
  }, 120_000);

  it.each(examples)(
    '$title runs',
    ({ file }) => {
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        ['--conditions=@flamingo-ts/source', '--import', 'tsx', file],
        { cwd: path.dirname(file), encoding: 'utf8', timeout: 110_000 },
      );
      if (!onlyLacksOneDnn(stderr)) expect(status, `${stdout}${stderr}`).toBe(0);
    },
    120_000,
  );
});

describe('install lines in READMEs', () => {
  const manifests = Object.fromEntries(
    ['packages', 'apps'].flatMap((parent) =>
      readdirSync(path.join(root, parent)).map((name) => {
        const manifest = json(`${parent}/${name}/package.json`);
        return [manifest.name, manifest];
      }),
    ),
  );

  /** All packages that `npm install` of these names installs, dependencies included. */
  function installed(names: readonly string[]): Set<string> {
    const all = new Set(names);
    for (const name of all) for (const below of Object.keys(manifests[name]?.dependencies ?? {})) all.add(below);
    return all;
  }

  const published = examples.filter(({ title }) => !manifests[`@flamingo-ts/${title.split('/')[1]}`]?.private);
  it.each(published)('$title imports only packages that the document installs', ({ title, code }) => {
    const document = title.replace(/:\d+$/, '');
    const lines = blocks.filter((b) => b.document === document && b.language === 'sh').map((b) => b.code);
    const named = [...lines.join('\n').matchAll(/npm install ([^#\n]*)/g)].flatMap(([, names]) =>
      names!.trim().split(/\s+/),
    );
    const have = installed(named.map((name) => name.replace(/(?<=.)@[\d^~].*$/, '')));
    const imported = [...code.matchAll(/from '((?:@[\w-]+\/)?[\w-]+)'/g)].map(([, name]) => name!);
    const backend = /useBackend\('(\w+)'\)/.exec(code)?.[1];
    const needed = backend === 'cpu' || backend === 'wasm' ? [`@tensorflow/tfjs-backend-${backend}`] : [];
    expect([...imported, ...needed].filter((name) => !have.has(name))).toEqual([]);
    if (backend === 'auto') expect([...have].join()).toMatch(/backend-native|tfjs-node-gpu|tfjs-backend-(wasm|cpu)/);
  });
});

describe('commands in READMEs', () => {
  const scripts = Object.keys(json('package.json').scripts);
  const packages = ['packages', 'apps'].flatMap((parent) =>
    readdirSync(path.join(root, parent)).map((name) => json(`${parent}/${name}/package.json`).name),
  );
  const commands = blocks
    .filter(({ language }) => language === 'sh')
    .flatMap(({ document, line, code }) =>
      code
        .split('\n')
        .map((text, i) => ({ title: `${document}:${line + i}`, command: text.replace(/#.*/, '').trim() })),
    )
    .filter(({ command }) => command !== '');

  it.each(commands)('$title: $command', ({ command }) => {
    for (const [, script] of command.matchAll(/npm run (?:-s |--silent )?([\w:-]+)/g))
      expect(scripts).toContain(script);
    for (const [, name] of command.matchAll(/(@flamingo-ts\/[\w-]+)/g)) expect(packages).toContain(name);
    for (const [, file] of command.matchAll(/\bnode (?:--\S+ )*(\S+\.m?[jt]s)\b/g)) expect(exists(file!)).toBe(true);
    for (const [, sub] of command.matchAll(/(?:npx flamingo|npm run (?:-s )?flamingo --) ([a-z][\w-]*)/g)) {
      expect(subCommands()).toContain(sub);
    }
  });
});

it('relative links in READMEs have existing targets', () => {
  const broken = documents().flatMap((document) =>
    [...readFileSync(path.join(root, document), 'utf8').matchAll(/\]\((?!\w+:|#)([^)#\s]+)[^)]*\)/g)]
      .filter(([, link]) => !exists(path.join(path.dirname(document), link!)))
      .map(([, link]) => `${document}: ${link}`),
  );
  expect(broken).toEqual([]);
});

function json(file: string) {
  return JSON.parse(readFileSync(path.join(root, file), 'utf8'));
}

function exists(file: string): boolean {
  return existsSync(path.join(root, file));
}

let known: string[] | undefined;

/** The sub-commands in `flamingo --help`. */
function subCommands(): string[] {
  if (known) return known;
  const cli = path.join(root, 'apps/trainer/src/cli.ts');
  const { stdout } = spawnSync(
    process.execPath,
    ['--conditions=@flamingo-ts/source', '--import', 'tsx', cli, '--help'],
    {
      cwd: root,
      encoding: 'utf8',
    },
  );
  known = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}([a-z][\w-]*)/gm)].map(([, name]) => name!);
  return known;
}
