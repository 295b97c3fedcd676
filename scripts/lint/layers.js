import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';

/**
 * Which layers a layer may import, by the tag `layer:x` under `nx` in each package.json. Imports point downwards only;
 * packages of one layer do not know each other.
 */
export const arrows = {
  random: [],
  kernels: ['random'],
  backend: ['kernels'],
  core: ['kernels'],
  module: ['core', 'kernels'],
  model: ['module', 'core', 'kernels', 'random'],
  data: ['random'],
  app: ['model', 'data', 'module', 'core', 'backend', 'kernels', 'random'],
  testing: ['core', 'kernels'],
};

const root = path.resolve(import.meta.dirname, '../..');

/** Every package of the workspace: { name, layer, folder, declared }. */
export function workspacePackages() {
  return ['packages', 'apps'].flatMap((parent) =>
    readdirSync(path.join(root, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => {
        const folder = path.join(root, parent, entry.name);
        const json = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
        const tag = json.nx?.tags?.find((tag) => tag.startsWith('layer:'));
        const layer = tag?.slice('layer:'.length);
        if (!Object.hasOwn(arrows, layer ?? '')) {
          throw new Error(
            `${folder}/package.json must have one nx tag of layer:${Object.keys(arrows).join(', layer:')}`,
          );
        }
        const declared = Object.keys({ ...json.dependencies, ...json.peerDependencies });
        return { name: json.name, layer, folder, declared };
      }),
  );
}

/** Why `specifier` must not be imported by `file`, or undefined where it may. */
export function forbidden(packages, file, specifier) {
  const owner = packages.find(({ folder }) => file.startsWith(folder + path.sep));
  const isTest = /\.test\.ts$/.test(file) || /(^|[\\/])test[\\/]/.test(path.relative(owner?.folder ?? root, file));

  if (specifier.startsWith('.')) {
    const target = path.resolve(path.dirname(file), specifier);
    const other = packages.find(
      ({ folder }) => folder !== owner?.folder && (target + path.sep).startsWith(folder + path.sep),
    );
    // What a tool shares with a package's tests has no name to import it by.
    if (other && !owner && isBelow(path.join(other.folder, 'test'), target)) return undefined;
    if (other) return `reaches into another package: import ${other.name} by its name`;
    if (owner && !isBelow(owner.folder, target)) return 'leaves its package: a published package has nothing beside it';
    return undefined;
  }
  // A subpath import: the package.json of the file's own package says what it is.
  if (specifier.startsWith('#')) return undefined;
  if (specifier.startsWith('node:') || builtinModules.includes(specifier)) return undefined;

  const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
  const target = packages.find((p) => p.name === name);
  if (target && specifier !== name && specifier !== `${name}/package.json`)
    return `is a deep import: ${name} has one entry`;
  if (!owner || name === owner.name) return undefined;

  // Tests may also lean on what stands beside or above their package: backends to run on, packages to run with.
  if (isTest) return undefined;
  if (target?.layer === 'testing') return 'is for tests only';
  if (target && !arrows[owner.layer].includes(target.layer)) {
    return `points upwards or sideways: layer '${owner.layer}' may import ${listed(arrows[owner.layer])}, ${name} is '${target.layer}'`;
  }
  if (owner.layer === 'data' && name.startsWith('@tensorflow/'))
    return 'is a tensor library: data packages use plain typed arrays';
  if (!owner.declared.includes(name)) return `is not in dependencies or peerDependencies of ${owner.name}`;
  return undefined;
}

function isBelow(folder, target) {
  return !path.relative(folder, target).startsWith('..');
}

function listed(layers) {
  return layers.length === 0 ? 'no other package' : layers.map((layer) => `'${layer}'`).join(', ');
}

/** ESLint rule `workspace/layers`: holds the arrows above for every form of import. */
export const layers = {
  meta: { type: 'problem', schema: [], messages: { forbidden: "'{{specifier}}' {{why}}." } },
  create(context) {
    const packages = workspacePackages();
    const check = (source) => {
      if (source?.type !== 'Literal' || typeof source.value !== 'string') return;
      const why = forbidden(packages, context.filename, source.value);
      if (why) context.report({ node: source, messageId: 'forbidden', data: { specifier: source.value, why } });
    };
    return {
      ImportDeclaration: (node) => check(node.source),
      ExportNamedDeclaration: (node) => check(node.source),
      ExportAllDeclaration: (node) => check(node.source),
      ImportExpression: (node) => check(node.source),
      TSImportType: (node) => check(node.source ?? node.argument?.literal),
      'CallExpression[callee.name="require"]': (node) => check(node.arguments[0]),
    };
  },
};
